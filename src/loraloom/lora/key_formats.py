"""Adapter files in the key formats of other programs, written without a library's conversions.

In: `LoraLayer` records. Out: tensors by key, in one of two key formats:

    diffusers  `unet.<module>.lora_A.weight`             diffusers, peft, and our own adapter.safetensors
    kohya      `lora_unet_<module>.lora_down.weight`     sd-scripts, A1111, ComfyUI; with `.alpha`

Written files have alpha / rank multiplied into B and alpha = rank, because readers disagree about who keeps the factor. No
weights of the model are read.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from loraloom.lora.fusing import fuse_layers
from loraloom.lora.layers import LoraLayer
from loraloom.protocols.model import DiffusionModel


def to_diffusers(model: DiffusionModel, layers: Iterable[LoraLayer], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the keys of diffusers and peft."""
    tensors: dict[str, Tensor] = {}
    for layer in map(_with_factor_in_up, layers):
        stem = diffusers_stem(model, layer.part, layer.module)
        tensors[f"{stem}.lora_A.weight"] = layer.down.to(dtype)
        tensors[f"{stem}.lora_B.weight"] = layer.up.to(dtype)
    return tensors


def to_kohya(model: DiffusionModel, layers: Iterable[LoraLayer], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the keys of sd-scripts, with `.alpha` = rank, and with layers fused as sd-scripts has them."""
    tensors: dict[str, Tensor] = {}
    for layer in fuse_layers(model, map(_with_factor_in_up, layers)):
        stem = _kohya_stem(model, layer.part, layer.module)
        tensors[f"{stem}.lora_down.weight"] = layer.down.to(dtype)
        tensors[f"{stem}.lora_up.weight"] = layer.up.to(dtype)
        tensors[f"{stem}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    return tensors


def diffusers_stem(model: DiffusionModel, part: str, module: str) -> str:
    """All of a key before `.lora_A.weight`, in the key format of diffusers."""
    return f"{model.lora_format.component(part)}.{model.lora_format.diffusers_name(part, module)}"


def _with_factor_in_up(layer: LoraLayer) -> LoraLayer:
    """The same update with alpha = rank: alpha / rank is multiplied into B."""
    return replace(layer, up=layer.up * layer.factor, alpha=float(layer.rank))


def _kohya_stem(model: DiffusionModel, part: str, module: str) -> str:
    name = model.lora_format.diffusers_name(part, module).replace(".", "_")
    return f"{model.lora_format.kohya_prefix(part)}_{name}"
