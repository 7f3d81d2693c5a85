"""Settings of the style recipe: those of `prepare`, `train` and `evaluate`, and what is compared.

In: a preset or a file, YAML or TOML with the same keys, and flags. Out: `StylesConfig`, or one error that lists all faults.
"""

from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from loraloom import plugins
from loraloom.config.base import Settings, setting
from loraloom.config.evaluate import FIRST_SEED, EvaluateConfig
from loraloom.config.extending import complete
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.config.run import Precision, RunConfig
from loraloom.utils.errors import UserError, did_you_mean

PRESETS = Path(__file__).with_name("presets")
SAMPLES = "samples:"
"""A folder `samples:STYLE` stands for scenes that are rendered in a style of the domain `scenes`."""

_Prepare: Any = complete(PrepareConfig)
_Evaluate: Any = complete(EvaluateConfig)


class SamplesConfig(Settings):
    """Rendered scenes, for styles whose folder is samples:STYLE."""

    count: int = setting(96, "Images of each style.", ge=4, le=100_000)
    seed: int = setting(5, "Seed of the scenes; all styles show the same ones.", ge=0, le=MAX_SEED)


class CompareConfig(Settings):
    """Images of base, styles and blends, and the figures about them."""

    prompts: tuple[str, ...] = setting(
        (), "Prompts without trigger words, which are added; default: held-out captions, taken from the styles in turn."
    )
    num_prompts: int = setting(8, "Number of held-out captions where there are no prompts.", ge=1, le=1000)
    num_seeds: int = setting(2, "Images for each prompt; image k (from 0) has the seed SEED + k.", ge=1, le=1000)
    seed: int = setting(FIRST_SEED, "Seed of the first image of each prompt.", ge=0, le=MAX_SEED)
    steps: int = setting(25, "Denoising steps.", ge=1, le=MAX_STEPS)
    guidance_scale: float | None = setting(
        None, "Scale of classifier-free guidance; 1: off; default: the model's.", ge=1, le=MAX_GUIDANCE
    )
    batch_size: int = setting(4, "Images denoised at once; does not change the images.", ge=1, le=4096)
    mixed_precision: Precision = setting("no", "Precision of the generation; no: float32.")
    scale: float = setting(1.0, "Scale of a LoRA alone.", gt=0, le=MAX_ADAPTER_WEIGHT)
    blend: tuple[float, float] = setting((0.6, 0.4), "Scales of the first and the second LoRA in a blend.")
    strict: bool = setting(False, "Treat as errors: prompts that are not read in full, and what is not scored.")
    metrics: tuple[str, ...] = setting(
        ("texture", "style"),
        "Metrics of likeness that compare each image with references: texture, style, clip_i, dino.",
    )

    @field_validator("metrics")
    @classmethod
    def _compare_with_references(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        likeness = ("texture", "style", "clip_i", "dino")
        for name in names:
            if name not in likeness:
                raise ValueError(f"{name!r} is no metric of likeness: {did_you_mean(name, likeness)}")
        if not names:
            raise ValueError("expected at least one of " + ", ".join(likeness))
        return tuple(dict.fromkeys(names))

    @field_validator("blend")
    @classmethod
    def _scales_can_be_used(cls, scales: tuple[float, float]) -> tuple[float, float]:
        if not all(0 < scale <= MAX_ADAPTER_WEIGHT for scale in scales):
            raise ValueError(f"expected two scales above 0, at most {MAX_ADAPTER_WEIGHT:g}")
        return scales


class StylesConfig(Settings):
    """The style recipe."""

    verb = "styles"

    epochs: int = setting(
        0,
        "Times that each training image is learned from; it determines run.train.max_steps; 0: that setting counts.",
        ge=0,
    )
    scored: bool = setting(True, "Also run `loraloom evaluate` on each style, with the settings in the group evaluate.")
    samples: SamplesConfig = SamplesConfig()
    prepare: _Prepare = _Prepare()  # pyright: ignore[reportInvalidTypeForm]
    run: RunConfig = RunConfig()
    compare: CompareConfig = CompareConfig()
    evaluate: _Evaluate = _Evaluate()  # pyright: ignore[reportInvalidTypeForm]

    @model_validator(mode="after")
    def _checks_across_fields(self) -> "StylesConfig":
        if not self.prepare.style:
            raise ValueError("prepare.style has no styles: add --style NAME=FOLDER:TRIGGER")
        if self.run.data.dataset or self.run.train.output != RunConfig().train.output:
            raise ValueError("run.data.dataset and run.train.output are set by the recipe: leave them out")
        if self.run.train.method != "lora":
            raise ValueError("run.train.method must be lora: styles are compared by switching adapters")
        if self.epochs and self.run.train.max_steps != RunConfig().train.max_steps:
            raise ValueError("epochs and run.train.max_steps both set the length of the training: keep one")
        return self


def preset_file(name: str) -> Path:
    """The file of a preset.

    Raises:
        UserError: There is none of this name.
    """
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        raise UserError("no such preset", got=name, fix=did_you_mean(name, known))
    return PRESETS / f"{name}.yaml"


def read_styles(
    file: Path | None, preset: str, styles: tuple[str, ...] = (), overrides: tuple[str, ...] = ()
) -> StylesConfig:
    """Settings of a file, or of a preset where there is none; styles that are given replace those of the file.

    Raises:
        UserError: The file cannot be read, or settings are wrong; all faults are listed.
    """
    values: dict[str, Any] = {"prepare.style": styles} if styles else {}
    try:
        config = read_settings(StylesConfig, file or preset_file(preset), overrides, values)
    except UserError as error:
        fix = (error.fix or "").replace("`loraloom config styles`", "`python -m recipes.styles config`")
        raise UserError(error.what, got=error.got, expected=error.expected, fix=fix or None) from None
    domains = plugins.names("domains")
    if config.prepare.domain not in domains:
        raise UserError("no such domain", got=config.prepare.domain, fix=did_you_mean(config.prepare.domain, domains))
    return config
