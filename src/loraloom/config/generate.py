"""Settings of `generate`."""

from loraloom.config.base import Settings, setting
from loraloom.config.run import Precision

MAX_SEED = (1 << 63) - 1
MAX_STEPS = 100_000
MAX_GUIDANCE = 1e6
MAX_SIDE_PX = 1 << 14
MAX_ADAPTER_WEIGHT = 100.0
"""To either side of 0."""


class GenerateConfig(Settings):
    """How images are drawn."""

    verb = "generate"

    model_options: tuple[str, ...] = setting(
        (),
        "options of the model's family, NAME=VALUE; default is what the adapter was trained with",
        flag="--model-option",
    )
    negative_prompt: str = setting("", "what to avoid", flag="--negative")
    num_images: int = setting(1, "images for each prompt; image k has seed + k", flag="--num-images", ge=1)
    seed: int = setting(0, "of the first image", flag="--seed", ge=0, le=MAX_SEED)
    steps: int = setting(25, "denoiser steps", flag="--steps", ge=1, le=MAX_STEPS)
    guidance_scale: float | None = setting(
        None,
        "classifier-free guidance; 1 is off; default is what suits the model, from 4 to 7.5",
        flag="--guidance",
        ge=1,
        le=MAX_GUIDANCE,
    )
    sampler: str = setting(
        "auto", "ddim, ddpm, dpmpp_2m_karras, euler_a, unipc or lcm; auto is what suits the model", flag="--sampler"
    )
    width: int | None = setting(
        None, "pixels; default is what the adapter was trained at", flag="--width", ge=16, le=MAX_SIDE_PX
    )
    height: int | None = setting(
        None, "pixels; default is what the adapter was trained at", flag="--height", ge=16, le=MAX_SIDE_PX
    )
    batch_size: int = setting(4, "images drawn at once; does not change them", flag="--batch-size", ge=1)
    mixed_precision: Precision = setting("no", "no, fp16 or bf16", flag="--mixed-precision")
    weighting: bool = setting(True, "read (word:1.3) as a weight", flag="--weighting")
    fill_in: bool = setting(
        True,
        "decide what a prompt leaves open before drawing; needs a --domain that verifies images",
        flag="--fill-in",
    )
    best_of: int = setting(
        1,
        "draw so many for each image and keep the one whose text is met best; needs a --domain that judges",
        flag="--best-of",
        ge=1,
    )
    strict: bool = setting(
        False, "a prompt that is not read in full, or holds syntax that is text here, is an error", flag="--strict"
    )
    repair: bool = setting(False, "draw the parts that have a fault again, and keep the rest", flag="--repair")
    repair_rounds: int = setting(
        3, "tries of --repair; a try that leaves as many faults is thrown away", flag="--repair-rounds", ge=1
    )
    repair_guidance: float = setting(
        4.0,
        "of these tries: from what the image shows towards the prompt; 0 is off",
        flag="--repair-guidance",
        ge=0,
    )
