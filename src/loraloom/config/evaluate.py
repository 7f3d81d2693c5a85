"""Settings of `evaluate`."""

from typing import ClassVar

from pydantic import field_validator

from loraloom.config.base import Settings, setting
from loraloom.config.extending import Extended
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from loraloom.config.run import Precision

FIRST_SEED = 100_000_000
"""Default seed of the images that are scored: training and its samples use small ones."""
SEEDS, SWEEP_SEEDS = 4, 1
"""Images for each prompt where nobody says how many."""


class SweepConfig(Settings):
    """Sweep: which checkpoint and scale to keep."""

    verb = "evaluate"

    scales: str = setting(
        "0.4-1.2:0.2",
        "Scales of the adapter: numbers separated by commas, or first-last:step such as 0.4-1.2:0.2.",
        flag="--scales",
    )
    checkpoints: str = setting(
        "all",
        "Checkpoints of the run: all, steps separated by commas, or newest:N for the N newest.",
        flag="--checkpoints",
    )
    ema: str = setting(
        "auto",
        "Lengths of averages of the checkpoints, as shares of the training above 0 and up to 0.2887 (the plain mean), "
        "separated by commas; auto: 0.1 and 0.2 from three checkpoints on; none: no averages.",
        flag="--ema",
    )
    rank_by: str = setting(
        "auto",
        "Metric whose gain over the base ranks the settings, such as style, clip_i or dino; auto: sentences_met if the domain "
        "verifies images, otherwise style.",
        flag="--rank-by",
    )
    drift_weight: float = setting(
        0.5,
        "How much drift lowers the score, which is gain - weight x drift - weight x loss of prompts; 0: not at all.",
        flag="--drift-weight",
        ge=0,
        le=100,
    )
    prompt_weight: float = setting(
        1.0,
        "How much it lowers the score that prompts are followed less than by the base and real images; 0: not at all.",
        flag="--prompt-weight",
        ge=0,
        le=100,
    )
    num_unrelated: int = setting(
        6,
        "Unrelated prompts that drift is measured with, one image each: the first of the ten that evaluate has.",
        flag="--num-unrelated",
        ge=2,
        le=10,
    )


class EvaluateConfig(Extended):
    """Evaluation."""

    verb = "evaluate"
    extension_kinds: ClassVar[tuple[str, ...]] = ("metrics",)

    metrics: tuple[str, ...] = setting(
        (),
        "Names of metrics, separated by commas, such as clip_score,kid; default: every metric that can be computed.",
        flag="--metrics",
    )
    extractor: str = setting(
        "auto",
        "CLIP that scores: hub id, folder, or builtin:mini; auto: the base's own CLIP if it has one, "
        "otherwise openai/clip-vit-large-patch14.",
        flag="--extractor",
    )
    vision_extractor: str = setting(
        "",
        "Extractor of the metric dino: hub id or folder; empty: facebook/dinov2-base if --metrics names dino, otherwise none.",
        flag="--vision-extractor",
    )
    num_prompts: int = setting(
        8,
        "Prompts of the images that the adapter generates: held-out captions, or training captions if none is held out.",
        flag="--num-prompts",
        ge=1,
        le=10_000,
    )
    num_seeds: int | None = setting(
        None,
        "Images for each prompt; image k (from 0) has the seed SEED + k; default: 4, in a sweep 1.",
        flag="--num-seeds",
        ge=1,
        le=1000,
    )
    seed: int = setting(
        FIRST_SEED,
        "Seed of the first image of each prompt; it also determines the resampling of intervals.",
        flag="--seed",
        ge=0,
        le=MAX_SEED,
    )
    steps: int = setting(25, "Denoising steps.", flag="--steps", ge=1, le=MAX_STEPS)
    guidance_scale: float | None = setting(
        None,
        "Scale of classifier-free guidance; 1: off; default: the model's.",
        flag="--guidance",
        ge=1,
        le=MAX_GUIDANCE,
    )
    adapter_weight: float = setting(
        1.0,
        "Scale of the adapter; 1: as trained.",
        flag="--adapter-weight",
        ge=-MAX_ADAPTER_WEIGHT,
        le=MAX_ADAPTER_WEIGHT,
    )
    num_probes: int = setting(
        16,
        "Captions of each kind, trained and held out, of which the memorisation of the denoiser is tested; 0: none.",
        flag="--num-probes",
        ge=0,
        le=100_000,
    )
    batch_size: int = setting(
        4,
        "Images generated, or read by an extractor, at once; does not change the images.",
        flag="--batch-size",
        ge=1,
        le=4096,
    )
    mixed_precision: Precision = setting("no", "Precision of the generation; no: float32.", flag="--mixed-precision")
    sweep: SweepConfig = SweepConfig()
    strict: bool = setting(
        False,
        "Treat as errors: files that are not scored, prompts that are not read in full, images of several sizes.",
        flag="--strict",
    )

    @property
    def seeds_per_prompt(self) -> int:
        """`num_seeds`, or what `evaluate` uses where it is left open; a sweep sets it."""
        return self.num_seeds or SEEDS

    @field_validator("metrics")
    @classmethod
    def _separated(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """`a,b` are two, and a name that is given twice counts once."""
        parts = [part.strip() for name in names for part in name.split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))
