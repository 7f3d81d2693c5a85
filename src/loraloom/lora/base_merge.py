"""Adapters merged into a base: a whole model in a diffusers folder, one part in memory at a time.

In: a model of which no part is read yet, and updates with their scales. Out: a folder that other programs open as a model,
read back and compared bit by bit. The weights are merged in float32, whatever dtype they are saved in (Hu et al. 2021,
section 4.1). A DoRA is computed from the base's own weight.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from loraloom.lora.deltas import Delta
from loraloom.lora.inject import base_layers
from loraloom.lora.tool_input import ToolInput
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.atomic_files import sha256_bytes, whole_directory, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError

RECORD_NAME = "loraloom.json"
"""File of a merged model that says what it was made of."""

Dtype = Literal["fp32", "fp16", "bf16"]
Edit = Callable[[str, nn.Module], None]
"""Called with a part and its module when it is read."""


def merge_into_base(
    model: DiffusionModel,
    inputs: Sequence[ToolInput],
    out: Path,
    dtype: Dtype,
    *,
    one_at_a_time: Callable[[Edit], AbstractContextManager[None]],
    reopen: Callable[[Path], DiffusionModel],
    record: Mapping[str, Any],
) -> int:
    """Write the merged model and return the number of layers that changed.

    Args:
        model: The base; none of its parts is in memory, then or afterwards.
        inputs: Adapters, read with this model.
        out: The folder.
        dtype: The dtype of the weights on disk.
        one_at_a_time: The method of the model's `ModuleStore`.
        reopen: Opens the folder as a model, to compare.
        record: Where it comes from, for `RECORD_NAME`.

    Raises:
        UserError: A weight does not fit the dtype, a bias has no place, or what is read back differs; then `out` is as it was.
    """
    sums: dict[str, dict[str, str]] = {}
    changed: set[tuple[str, str]] = set()

    def merge(part: str, module: nn.Module) -> None:
        changed.update((part, name) for name in _merge_part(part, module, inputs))
        sums[part] = _sums(module, DTYPES[dtype])

    with whole_directory(out) as folder:
        with one_at_a_time(merge):
            model.save(folder, dtype)
        write_json(folder / RECORD_NAME, dict(record))
        again = reopen(folder)
        for part, expected in sums.items():
            if _sums(again.modules.get(part), DTYPES[dtype]) != expected:
                what = f"{out.name} was not saved: the {part.replace('_', ' ')} that is read back differs"
                raise UserError(what, fix="report this: it is not what was to be written")
            again.modules.drop(part)
    return len(changed)


def _merge_part(part: str, module: nn.Module, inputs: Sequence[ToolInput]) -> set[str]:
    """Add all changes of a part to its weights and return the names of the layers."""
    layers: dict[str, Any] = dict(base_layers(module))
    names: set[str] = set()
    for name, layer in layers.items():
        place = (part, name)
        own = layer.weight.data
        # A DoRA's change depends on the base's own weight: all changes are computed before one is added.
        total = torch.zeros_like(own, dtype=torch.float32)
        for one in inputs:
            update = one.layers.get(place) or one.deltas.get(place)
            scale = one.scale_at(place)
            if update is None or scale == 0:
                continue
            names.add(name)
            total += update.change(own, scale)
            bias = update.bias if isinstance(update, Delta) else None
            if bias is not None:
                if layer.bias is None:
                    what = f"{one.name} changes the bias of {name}, which has none in this model"
                    raise UserError(what, fix="use it with `loraloom generate`")
                layer.bias.data += scale * bias.to(layer.bias)
        if name in names:
            own += total.to(own)
    return names


def _sums(module: nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """sha256 of each tensor of a part as it is on disk."""
    found: dict[str, str] = {}
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            saved = tensor.detach().to("cpu", dtype).contiguous()
            if not bool(saved.isfinite().all()):
                raise UserError("a merged weight does not fit the dtype", got=name, fix="save it with --dtype fp32")
            found[name] = sha256_bytes(saved.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found
