"""Whether the files of a model are Stable Diffusion XL, and its configs, checked.

In: files that were resolved. Out: yes or no; or the configs with every number in its range and parts that fit each other.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    MAX_WIDTH,
    Rule,
    check_schedule,
    check_vae,
    one_of,
    whole,
)
from loraloom.extensions.families._ldm.layout import channels_in_file, describe, kind_of, refuse_own_code
from loraloom.extensions.families._ldm.limits import (
    UNET,
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
    "text_encoder": PartFiles(folder="text_encoder", kind="clip", prefix="conditioner.embedders.0."),
    "text_encoder_2": PartFiles(folder="text_encoder_2", kind="clip_projection", prefix="conditioner.embedders.1."),
}
DEFAULT_CONFIGS = "stabilityai/stable-diffusion-xl-base-1.0"
"""The hub model whose tokenizer is the default for a single checkpoint file."""
PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
NUM_CONDITIONS = 6
"""Numbers that say size and crop: original, crop and target, height before width."""

SDXL_UNET: Mapping[str, Rule] = {
    **UNET,
    "addition_embed_type": one_of("text_time"),
    "addition_time_embed_dim": whole(1, MAX_WIDTH),
    "projection_class_embeddings_input_dim": whole(1, 8 * MAX_WIDTH),
}


def is_sdxl(files: ModelFiles) -> bool:
    """A UNet with conditions on size, or two text encoders; what of these is no whole model `check_kind` refuses."""
    return kind_of(files) in {"two encoders", "refiner", "mixed"}


def check_kind(files: ModelFiles) -> None:
    """Raise `UserError` unless some files are a text-to-image Stable Diffusion XL."""
    kind = kind_of(files)
    if kind is None and files.folder is not None:
        files.config("unet/config.json")  # says that it is missing
    if kind == "refiner":
        raise UserError(
            "this is the refiner of Stable Diffusion XL, which cannot be trained or used alone: it continues images "
            "that the base model has begun",
            got=files.source.location,
            expected="a Stable Diffusion XL base model",
            fix="use the base model that belongs to it",
        )
    if kind == "mixed":
        raise UserError(
            "the parts of this model are of different models",
            got=describe(files),
            expected="parts of one model",
            fix="download the model again, or take text_encoder_2 and tokenizer_2 away if it is a Stable Diffusion 1.x or 2.x",
        )
    if kind != "two encoders":
        raise UserError(
            "this model is not a Stable Diffusion XL",
            got=describe(files),
            expected="a UNet2DConditionModel with two CLIP text encoders",
            fix="leave out --family",
        )


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and of the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or does not fit the others.
    """
    unet, vae = files.config("unet/config.json"), files.config("vae/config.json")
    refuse_more_than_latents({**unet, "in_channels": channels_in_file(files) or unet.get("in_channels", 4)}, vae)
    refuse_own_code(files)
    if files.has("model_index.json"):
        folders = {"tokenizer", "tokenizer_2", *(spec.folder for spec in PARTS.values())}
        check_model_index(files.config("model_index.json"), PIPELINES, folders)
    check_unet(unet, SDXL_UNET)
    check_vae(vae)
    configs: dict[str, Mapping[str, Any]] = {"unet": unet, "vae": vae}
    for folder in ("text_encoder", "text_encoder_2"):
        configs[folder] = check_text_encoder(files.config(f"{folder}/config.json"), folder)
    configs["scheduler"] = files.config("scheduler/scheduler_config.json")
    check_schedule(configs["scheduler"])
    _check_conditions(configs)
    return configs


def _check_conditions(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` unless the UNet reads what the text encoders and the six numbers of size and crop make."""
    unet, first, second = configs["unet"], configs["text_encoder"], configs["text_encoder_2"]
    widths = [int(config.get("hidden_size", 512)) for config in (first, second)]
    check_together(unet, configs["vae"], sum(widths), "the sum of both text encoders' hidden_size")
    pooled = int(second.get("projection_dim") or 512)
    made = NUM_CONDITIONS * int(unet.get("addition_time_embed_dim", 256)) + pooled
    reads = unet.get("projection_class_embeddings_input_dim")
    if reads != made:
        raise UserError(
            "unet/config.json: projection_class_embeddings_input_dim",
            got=reads,
            expected=f"{made:,}: {NUM_CONDITIONS} x addition_time_embed_dim and text_encoder_2's projection_dim ({pooled})",
            fix="the UNet and text_encoder_2 are of different models",
        )
