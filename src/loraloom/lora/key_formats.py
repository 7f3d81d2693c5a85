"""Adapter files as other programs spell them, written without a library's conversions.

In: `Layers`: part -> module name -> (A, B, alpha). Out: tensors by key, in one of two key formats:

    exchange   `unet.<module>.lora_A.weight`             diffusers, peft, and our own adapter.safetensors
    kohya      `lora_unet_<module>.lora_down.weight`     sd-scripts, A1111, ComfyUI; with `.alpha`

Written files have alpha / rank baked into B and alpha = rank, because readers disagree about who keeps the scale.
"""

import torch
from torch import Tensor

from loraloom.lora.fusing import Layers, fuse_layers
from loraloom.protocols.model import DiffusionModel


def baked(layers: Layers) -> Layers:
    """The same updates with alpha = rank: (A, B alpha / rank, rank)."""
    return {
        part: {
            name: (down, up * (alpha / down.shape[0]), float(down.shape[0]))
            for name, (down, up, alpha) in modules.items()
        }
        for part, modules in layers.items()
    }


def to_diffusers(model: DiffusionModel, layers: Layers, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keys of diffusers and peft; the layers must be `baked`."""
    tensors: dict[str, Tensor] = {}
    for part, modules in layers.items():
        for name, (down, up, _) in modules.items():
            stem = f"{model.lora_format.component(part)}.{model.lora_format.diffusers_name(part, name)}"
            tensors[f"{stem}.lora_A.weight"] = down.to(dtype)
            tensors[f"{stem}.lora_B.weight"] = up.to(dtype)
    return tensors


def to_kohya(model: DiffusionModel, layers: Layers, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keys of sd-scripts, with `.alpha` = rank and layers fused as it has them; the layers must be `baked`."""
    tensors: dict[str, Tensor] = {}
    for part, modules in fuse_layers(model, layers).items():
        for name, (down, up, alpha) in modules.items():
            stem = _kohya_stem(model, part, name)
            tensors[f"{stem}.lora_down.weight"] = down.to(dtype)
            tensors[f"{stem}.lora_up.weight"] = up.to(dtype)
            tensors[f"{stem}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


def _kohya_stem(model: DiffusionModel, part: str, name: str) -> str:
    return f"{model.lora_format.kohya_prefix(part)}_{model.lora_format.kohya_name(part, name).replace('.', '_')}"
