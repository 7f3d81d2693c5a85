"""Adapter files as other programs write them, with random weights, and what they do to a model's weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from loraloom.lora.inject import base_layers
from loraloom.lora.stack import LoraStack, Scale
from loraloom.protocols.model import DiffusionModel

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LINEAR = f"{BLOCK}.attn1.to_q"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
ATTENTION = [
    f"{BLOCK}.{attention}.{name}" for attention in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")
]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj", "encoder.layers.1.mlp.fc1"]


def random(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers around 0.3 in size: large enough to see, small enough to compare."""
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weight_of(model: DiffusionModel, name: str, part: str = "denoiser") -> Tensor:
    """The base's weight of a module, as it is now."""
    return dict(base_layers(model.modules.get(part)))[name].weight.detach().clone()  # pyright: ignore[reportCallIssue]


def kohya(name: str, prefix: str = "lora_unet") -> str:
    """A module's name as sd-scripts writes it."""
    return f"{prefix}_{name.replace('.', '_')}"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Save an adapter file."""
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def pairs_of(
    model: DiffusionModel, names: list[str], part: str = "denoiser", rank: int = 3
) -> dict[str, tuple[Tensor, Tensor]]:
    """Random (A, B) for linear layers."""
    made: dict[str, tuple[Tensor, Tensor]] = {}
    for number, name in enumerate(names):
        out, into = weight_of(model, name, part).shape
        made[name] = (random(rank, into, seed=number), random(out, rank, seed=100 + number))
    return made


def load(model: DiffusionModel, path: Path, scale: Scale = 1.0) -> LoraStack:
    """A stack of one adapter, `theirs`."""
    return load_all(model, {"theirs": path}, scale)


def load_all(model: DiffusionModel, files: Mapping[str, Path], scale: Scale = 1.0) -> LoraStack:
    """A stack of adapters by name."""
    stack = LoraStack(model)
    for name, path in files.items():
        stack.add(name, path, scale)
    return stack


def merged_changes(model: DiffusionModel, stack: LoraStack, names: Mapping[str, str]) -> dict[str, Tensor]:
    """What adapters change of the weights of modules (name to part), by merging them."""
    before = {name: weight_of(model, name, part) for name, part in names.items()}
    stack.merge()
    return {name: weight_of(model, name, part) - before[name] for name, part in names.items()}


def changes(
    opened: Callable[[], DiffusionModel], path: Path, names: list[str], part: str = "denoiser", scale: Scale = 1.0
) -> dict[str, Tensor]:
    """What an adapter file changes of a fresh model's weights."""
    model = opened()
    return merged_changes(model, load(model, path, scale), dict.fromkeys(names, part))
