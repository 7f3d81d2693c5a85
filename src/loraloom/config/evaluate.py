"""Settings of `evaluate`."""

from typing import ClassVar

from pydantic import field_validator

from loraloom.config.base import setting
from loraloom.config.extending import Extended
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from loraloom.config.run import Precision

FIRST_SEED = 100_000_000
"""Of the images that are scored: training and its samples use small ones."""


class EvaluateConfig(Extended):
    """What is scored, and how."""

    verb = "evaluate"
    extension_kinds: ClassVar[tuple[str, ...]] = ("metrics",)

    metrics: tuple[str, ...] = setting(
        (),
        "names with commas, such as clip_score,kid; default is every metric that can be computed from what is given",
        flag="--metrics",
    )
    extractor: str = setting(
        "auto",
        "CLIP that scores: hub id, folder, or builtin:mini; auto is the base's own CLIP where it has one, "
        "else openai/clip-vit-large-patch14",
        flag="--extractor",
    )
    vision_extractor: str = setting(
        "",
        "extractor for images alone (metric dino): hub id or folder, such as facebook/dinov2-base; empty leaves dino out",
        flag="--vision-extractor",
    )
    num_prompts: int = setting(8, "prompts that a run is asked to generate", flag="--num-prompts", ge=1, le=10_000)
    num_seeds: int = setting(4, "images of each prompt; image k has seed + k", flag="--num-seeds", ge=1, le=1000)
    seed: int = setting(
        FIRST_SEED, "of the first image of each prompt; also decides resampling", flag="--seed", ge=0, le=MAX_SEED
    )
    steps: int = setting(25, "denoiser steps of each image", flag="--steps", ge=1, le=MAX_STEPS)
    guidance_scale: float | None = setting(
        None, "classifier-free guidance; default is what suits the model", flag="--guidance", ge=1, le=MAX_GUIDANCE
    )
    adapter_weight: float = setting(
        1.0, "scale of the adapter", flag="--adapter-weight", ge=-MAX_ADAPTER_WEIGHT, le=MAX_ADAPTER_WEIGHT
    )
    num_probes: int = setting(
        16,
        "captions of each kind, trained and held out, that the denoiser is asked about memorisation; 0 is none",
        flag="--num-probes",
        ge=0,
        le=100_000,
    )
    batch_size: int = setting(4, "images generated or read by an extractor at once", flag="--batch-size", ge=1, le=4096)
    mixed_precision: Precision = setting("no", "of the generated images: no, fp16 or bf16", flag="--mixed-precision")
    strict: bool = setting(
        False,
        "a file that is not scored, a prompt that is not read in full, or images of several sizes, is an error",
        flag="--strict",
    )

    @field_validator("metrics")
    @classmethod
    def _separated(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """`a,b` are two, and a name that is given twice counts once."""
        parts = [part.strip() for name in names for part in name.split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))
