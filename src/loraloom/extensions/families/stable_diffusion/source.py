"""Recognise the files of a Stable Diffusion 1.x or 2.x model, and read its configs with checks.

In: resolved files of a model. Out: whether they match; the four configs with every number in its range.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import check_schedule, check_vae
from loraloom.extensions.families._ldm.layout import channels_in_file, describe, kind_of, refuse_own_code
from loraloom.extensions.families._ldm.limits import (
    check_model_index,
    check_text_encoder,
    check_together,
    check_unet,
    refuse_more_than_latents,
)
from loraloom.extensions.families._ldm.weights import PartFiles
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

PARTS = {
    "denoiser": PartFiles(folder="unet", kind="unet", prefix="model.diffusion_model."),
    "vae": PartFiles(folder="vae", kind="vae", prefix="first_stage_model."),
    "text_encoder": PartFiles(folder="text_encoder", kind="clip", prefix="cond_stage_model."),
}
DEFAULT_CONFIGS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""The hub model whose tokenizer is the default for a single checkpoint file."""
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionPipelineSafe",
)


def is_stable_diffusion(files: ModelFiles) -> bool:
    """One CLIP text encoder, a UNet without conditions on size."""
    return kind_of(files) == "one encoder"


def check_kind(files: ModelFiles) -> None:
    """Raise `UserError` unless some files are a Stable Diffusion 1.x or 2.x."""
    if not is_stable_diffusion(files):
        if kind_of(files) is None and files.folder is not None:
            files.config("unet/config.json")  # says that it is missing
        raise UserError(
            "this model is not a Stable Diffusion 1.x or 2.x",
            got=describe(files),
            expected="a UNet2DConditionModel with one CLIP text encoder",
            fix="leave out --family",
        )


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of unet, vae, text_encoder and scheduler, every number in its range.

    Raises:
        UserError: A config is missing, cannot be read, or has a value that this family does not support.
    """
    unet, vae = files.config("unet/config.json"), files.config("vae/config.json")
    refuse_more_than_latents({**unet, "in_channels": channels_in_file(files) or unet.get("in_channels", 4)}, vae)
    refuse_own_code(files)
    if files.has("model_index.json"):
        check_model_index(
            files.config("model_index.json"), PIPELINES, {"tokenizer", *(spec.folder for spec in PARTS.values())}
        )
    check_unet(unet)
    check_vae(vae)
    text_encoder = check_text_encoder(files.config("text_encoder/config.json"))
    scheduler = files.config("scheduler/scheduler_config.json")
    check_schedule(scheduler)
    check_together(unet, vae, text_encoder.get("hidden_size", 512))
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}
