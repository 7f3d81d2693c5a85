"""Which kind of model of UNet and CLIP some files are, by its configs or by the names in a checkpoint.

In: files that were resolved; nothing is downloaded. Out: a kind, and its name for an error line.
"""

from typing import Any, Literal

from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_header
from loraloom.utils.untrusted import shown

Kind = Literal["one encoder", "two encoders", "refiner", "mixed"]
"""`mixed`: the UNet and the text encoders are of different kinds."""

NAMES: dict[Kind, str] = {
    "one encoder": "Stable Diffusion 1.x or 2.x",
    "two encoders": "Stable Diffusion XL",
    "refiner": "a Stable Diffusion XL refiner",
}
_UNET = "model.diffusion_model."
_UNET_BLOCKS = f"{_UNET}input_blocks."
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"


def kind_of(files: ModelFiles) -> Kind | None:
    """The kind of some files, or None for another model.

    A single checkpoint is recognized by its own names, a folder by the UNet's config and its text encoders.
    """
    if files.single_file is not None:
        return _kind_of_names(files.tensor_names())
    if not files.has("unet/config.json"):
        return None
    config = files.config("unet/config.json")
    if config.get("_class_name") != "UNet2DConditionModel":
        return None
    first, second = files.has("text_encoder"), files.has("text_encoder_2")
    conditions = config.get("addition_embed_type")
    if conditions == "text_time":
        # The refiner reads the second encoder alone; a base that lost its first one reads both.
        alone = second and not first and config.get("cross_attention_dim") == _width(files, "text_encoder_2")
        return "refiner" if alone else "two encoders"
    if conditions:
        return None
    return "mixed" if second else "one encoder"


def describe(files: ModelFiles) -> str:
    """What some files are, for an error line."""
    kind = kind_of(files)
    if kind in NAMES:
        return NAMES[kind]
    if kind == "mixed":
        return "a UNet of Stable Diffusion 1.x or 2.x beside the text encoders of Stable Diffusion XL"
    if files.has("unet/config.json"):
        return str(shown(files.config("unet/config.json").get("_class_name")))
    return files.source.location


def refuse_own_code(files: ModelFiles) -> None:
    """Raise `UserError` for a model that comes with a pipeline of its own."""
    if files.has("pipeline.py"):
        raise UserError(
            "the model has its own pipeline code (pipeline.py), which is not run",
            got=str(files.folder),
            fix="use a model without custom code, or delete that file if the model works without it",
        )


def channels_in_file(files: ModelFiles) -> int | None:
    """Input channels of a single checkpoint's UNet; None for a folder."""
    if files.single_file is None:
        return None
    entry = read_header(files.single_file).tensors.get(_FIRST_LAYER)
    return entry.shape[1] if entry and len(entry.shape) == 4 else None


def _width(files: ModelFiles, encoder: str) -> Any:
    name = f"{encoder}/config.json"
    return files.config(name).get("hidden_size") if files.has(name) else None


def _kind_of_names(names: frozenset[str]) -> Kind | None:
    if not any(name.startswith(_UNET_BLOCKS) for name in names):  # other denoisers have the same prefix
        return None
    if any(name.startswith("conditioner.embedders.1.") for name in names):
        return "two encoders"
    if any(name.startswith("conditioner.embedders.0.") for name in names):
        return "refiner"
    return "one encoder"
