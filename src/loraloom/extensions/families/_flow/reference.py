"""An export in diffusers' own pipeline: the proof that other programs get what was trained.

In: a fresh pipeline and an exported file. Out: the pipeline with the adapter. A file on diffusers' names is loaded by the
pipeline's own loader. diffusers has no loader for every kohya layout, and where it has one it knows the full-size model only:
those files are added to the weights, each layer's matrix by rows. What the names mean is tested against diffusers' converters
of original checkpoints (`tests/families/`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.protocols.model import LoraFormat, Part
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import read_tensors


def add_adapter(pipeline: Any, file: Path, form: LoraFormat, parts: tuple[Part, ...]) -> None:
    """Load or add an exported file.

    Raises:
        UserError: A key means no layer of the pipeline.
    """
    tensors, _ = read_tensors(file)
    learning = [part for part in parts if part.lora_targets]
    if all(key.startswith(tuple(f"{form.component(part.name)}." for part in learning)) for key in tensors):
        with quiet():
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
        return
    used: set[str] = set()
    for part in learning:
        component = getattr(pipeline, form.component(part.name), None)
        if component is not None:
            used |= _add(dict(component.named_modules()), tensors, form, part.name)
    if unknown := sorted(tensors.keys() - used):
        raise UserError(f"{file.name} has keys that mean no layer", got=unknown[0], fix="this is a fault of the export")


@torch.no_grad()
def _add(modules: dict[str, Any], tensors: dict[str, Tensor], form: LoraFormat, part: str) -> set[str]:
    """Add the layers of a part to its weights; the keys that were used."""
    layers = {name: module for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
    fused = {layer.name: layer.modules for layer in form.fused(part, list(layers))}
    owned = {name for members in fused.values() for name in members}
    rows = {name: (name,) for name in layers if name not in owned} | fused
    used: set[str] = set()
    for name, members in rows.items():
        stem = f"{form.kohya_prefix(part)}_{form.kohya_name(part, name).replace('.', '_')}"
        keys = [f"{stem}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")]
        if keys[0] not in tensors:
            continue
        down, up, alpha = (tensors[key].float() for key in keys)
        change = float(alpha) / down.shape[0] * (up.flatten(1) @ down.flatten(1))
        for member, piece in zip(members, change.split([len(layers[one].weight) for one in members]), strict=True):
            layers[member].weight += piece.reshape(layers[member].weight.shape)
        used.update(keys)
    return used
