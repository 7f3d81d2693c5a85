"""Adapter files in the key formats of other programs, written without a library's conversions.

In: `LoraLayer` records. Out: tensors by key, in one of these key formats:

    diffusers  `unet.<module>.lora_A.weight`             diffusers, peft, and our own adapter.safetensors
    kohya      `lora_unet_<module>.lora_down.weight`     sd-scripts, A1111, ComfyUI; with `.alpha`
    native     `base_model.model.<name>.lora_A.weight`   peft's own, on the names of a model's original code

Written files have alpha / rank multiplied into B and alpha = rank, because readers disagree about who keeps the factor. No
weights of the model are read.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from loraloom.lora.fusing import fuse_layers
from loraloom.lora.layers import LoraLayer
from loraloom.lora.names import weight_shapes
from loraloom.protocols.model import DiffusionModel


def to_diffusers(model: DiffusionModel, layers: Iterable[LoraLayer], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the keys of diffusers and peft."""
    tensors: dict[str, Tensor] = {}
    for layer in map(_with_factor_in_up, layers):
        stem = diffusers_stem(model, layer.part, layer.module)
        tensors[f"{stem}.lora_A.weight"] = layer.down.to(dtype, copy=True)
        tensors[f"{stem}.lora_B.weight"] = layer.up.to(dtype, copy=True)
    return tensors


def to_kohya(model: DiffusionModel, layers: Iterable[LoraLayer], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the keys of sd-scripts, with `.alpha` = rank, and with layers fused as sd-scripts has them."""
    tensors: dict[str, Tensor] = {}
    for layer in fuse_layers(model, map(_with_factor_in_up, layers)):
        stem = _kohya_stem(model, layer.part, layer.module)
        tensors[f"{stem}.lora_down.weight"] = layer.down.to(dtype, copy=True)
        tensors[f"{stem}.lora_up.weight"] = layer.up.to(dtype, copy=True)
        tensors[f"{stem}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    return tensors


def to_native(
    model: DiffusionModel, layers: Sequence[LoraLayer], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors with peft's keys on the names of the model's original code, fused as there, and peft's config beside them.

    Layers that those programs have and that never learn are there as zeros. Every layer's alpha is its rank.
    """
    form = model.lora_format
    fused = fuse_layers(model, map(_with_factor_in_up, layers))
    ranks = {form.kohya_name(layer.part, layer.module): layer.rank for layer in fused}
    pairs = {form.kohya_name(layer.part, layer.module): (layer.down, layer.up) for layer in fused}
    common = Counter(layer.rank for layer in layers).most_common(1)[0][0]
    for part in {layer.part for layer in layers}:
        shapes = weight_shapes(model, part)
        for module in form.unlearned(part):
            rows, columns = shapes[module]
            pairs.setdefault(form.kohya_name(part, module), (torch.zeros(common, columns), torch.zeros(rows, common)))
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.to(dtype, copy=True)
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.to(dtype, copy=True)
    other = {name: rank for name, rank in ranks.items() if rank != common}
    config = {
        "peft_type": "LORA",
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "task_type": None,
        "base_model_name_or_path": None,
    }
    return tensors, config


def diffusers_stem(model: DiffusionModel, part: str, module: str) -> str:
    """All of a key before `.lora_A.weight`, in the key format of diffusers."""
    return f"{model.lora_format.component(part)}.{model.lora_format.diffusers_name(part, module)}"


def _with_factor_in_up(layer: LoraLayer) -> LoraLayer:
    """The same update with alpha = rank: alpha / rank is multiplied into B."""
    return replace(layer, up=layer.up * layer.factor, alpha=float(layer.rank))


def _kohya_stem(model: DiffusionModel, part: str, module: str) -> str:
    name = model.lora_format.kohya_name(part, module).replace(".", "_")
    return f"{model.lora_format.kohya_prefix(part)}_{name}"
