"""Settings of `generate`."""

from collections.abc import Mapping
from typing import ClassVar

from loraloom.config.base import Settings, setting
from loraloom.config.run import Precision

MAX_SEED = (1 << 63) - 1
MAX_STEPS = 100_000
MAX_GUIDANCE = 1e6
MAX_SIDE_PX = 1 << 14
MAX_ADAPTER_WEIGHT = 100.0
"""Largest absolute value of an adapter's scale."""


class GenerateConfig(Settings):
    """Image generation."""

    verb = "generate"
    renamed: ClassVar[Mapping[str, str]] = {"fill_in": "expand_prompts"}

    model_options: tuple[str, ...] = setting(
        (),
        "Options of the model's family, NAME=VALUE; default: those that the adapter was trained with.",
        flag="--model-option",
    )
    negative_prompt: str = setting("", "Negative prompt.", flag="--negative")
    num_images: int = setting(
        1, "Images for each prompt; image k (from 0) has the seed SEED + k.", flag="--num-images", ge=1
    )
    seed: int = setting(0, "Seed of the first image of each prompt.", flag="--seed", ge=0, le=MAX_SEED)
    steps: int = setting(25, "Denoising steps.", flag="--steps", ge=1, le=MAX_STEPS)
    guidance_scale: float | None = setting(
        None,
        "Scale of classifier-free guidance; 1: off; default: the model's.",
        flag="--guidance",
        ge=1,
        le=MAX_GUIDANCE,
    )
    sampler: str = setting(
        "auto",
        "Sampler: ddim, ddpm, dpmpp_2m, dpmpp_2m_karras, euler, euler_a, unipc or lcm; auto: the model's default. "
        "Flow-matching models have euler and dpmpp_2m.",
        flag="--sampler",
    )
    width: int | None = setting(
        None,
        "Width in pixels; default: the width that the adapter was trained at.",
        flag="--width",
        ge=16,
        le=MAX_SIDE_PX,
    )
    height: int | None = setting(
        None,
        "Height in pixels; default: the height that the adapter was trained at.",
        flag="--height",
        ge=16,
        le=MAX_SIDE_PX,
    )
    batch_size: int = setting(4, "Images denoised at once; does not change the images.", flag="--batch-size", ge=1)
    batch_loras: bool = setting(
        False,
        "Generate images with different LoRA settings in one batch, equal within rounding: for plain LoRAs that leave text "
        "encoders as they are.",
        flag="--batch-loras",
    )
    mixed_precision: Precision = setting("no", "Precision; no: float32.", flag="--mixed-precision")
    weighting: bool = setting(True, "Read (word:1.3) as emphasis; off: as plain text.", flag="--weighting")
    expand_prompts: bool = setting(
        True,
        "Expand each prompt with the details that it leaves open; only with a domain that verifies images.",
        flag="--expand-prompts",
    )
    best_of: int = setting(
        1,
        "Candidates per image; the one that meets most of its prompt is kept; requires a domain that verifies images.",
        flag="--best-of",
        ge=1,
    )
    strict: bool = setting(
        False,
        "Treat as errors: prompts that are not read in full, or contain syntax that is plain text here.",
        flag="--strict",
    )
    repair: bool = setting(
        False, "Inpaint the regions that do not match the prompt, and keep all other pixels.", flag="--repair"
    )
    repair_rounds: int = setting(
        3,
        "Maximum number of repair attempts per image; an attempt that does not reduce the faults is discarded.",
        flag="--repair-rounds",
        ge=1,
    )
    repair_guidance: float = setting(
        4.0,
        "Guidance scale of a repair, from what the image shows towards the prompt; 0: off.",
        flag="--repair-guidance",
        ge=0,
    )
