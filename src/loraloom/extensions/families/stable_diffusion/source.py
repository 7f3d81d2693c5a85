"""Recognise the files of a Stable Diffusion 1.x or 2.x model, and read its configs with checks.

In: resolved files of a model. Out: whether they match; the four configs with every number in its range.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families.stable_diffusion.limits import (
    check_model_index,
    check_schedule,
    check_text_encoder,
    check_unet,
    check_vae,
)
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

PART_FOLDER = {"denoiser": "unet", "vae": "vae", "text_encoder": "text_encoder"}
DEFAULT_CONFIGS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""The hub model whose configs and tokenizer are the default for a single checkpoint file."""


def is_stable_diffusion(files: ModelFiles) -> bool:
    """Whether there are one CLIP text encoder and a cross-attention UNet without added text-time conditions (as in SDXL)."""
    if files.single_file is not None and not _has_the_keys(files.tensor_names()):
        return False
    if files.folder is None:  # a single file: only its keys are known
        return True
    if not files.has("unet/config.json"):
        return False
    config = files.config("unet/config.json")
    return (
        config.get("_class_name") == "UNet2DConditionModel"
        and not config.get("addition_embed_type")
        and not files.has("text_encoder_2")
    )


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of unet, vae, text_encoder and scheduler, every number in its range.

    Raises:
        UserError: A config is missing, cannot be read, or has a value that this family does not support.
    """
    if files.has("model_index.json"):
        check_model_index(files.config("model_index.json"))
    if files.has("pipeline.py"):
        raise UserError(
            "the model has its own pipeline code (pipeline.py), which is not run",
            got=str(files.folder),
            fix="use a model without custom code, or delete that file if the model works without it",
        )
    unet, vae = files.config("unet/config.json"), files.config("vae/config.json")
    check_unet(unet)
    check_vae(vae)
    text_encoder = check_text_encoder(files.config("text_encoder/config.json"))
    scheduler = files.config("scheduler/scheduler_config.json")
    check_schedule(scheduler)
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}


def _has_the_keys(names: frozenset[str]) -> bool:
    """Whether a single checkpoint has one text encoder beside the UNet; SDXL has two, with other names."""
    return any(name.startswith("model.diffusion_model.") for name in names) and not any(
        name.startswith("conditioner.embedders.") for name in names
    )
