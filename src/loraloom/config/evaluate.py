"""Settings of `evaluate`."""

from typing import ClassVar

from pydantic import field_validator

from loraloom.config.base import setting
from loraloom.config.extending import Extended
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from loraloom.config.run import Precision

FIRST_SEED = 100_000_000
"""Default seed of the images that are scored: training and its samples use small ones."""


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
    num_seeds: int = setting(
        4, "Images for each prompt; image k (from 0) has the seed SEED + k.", flag="--num-seeds", ge=1, le=1000
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
    strict: bool = setting(
        False,
        "Treat as errors: files that are not scored, prompts that are not read in full, images of several sizes.",
        flag="--strict",
    )

    @field_validator("metrics")
    @classmethod
    def _separated(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """`a,b` are two, and a name that is given twice counts once."""
        parts = [part.strip() for name in names for part in name.split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))
