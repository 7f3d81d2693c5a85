"""Give a module without memory its weights, one tensor at a time: in float32, or straight into low bits.

In: a module on the meta device, frozen, and a function that reads a tensor by its name. Out: the same module with its weights
on the CPU. One tensor at a time is in memory in full precision: the peak is near the size of what is kept.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.models.low_bits import LowBits, frozen_layers, store_layer
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import library_errors

Read = Callable[[str, tuple[int, ...]], Tensor]
"""Name and shape of a tensor of the module -> the tensor, on the CPU, in any float dtype."""


@torch.no_grad()
def fill(module: nn.Module, read: Read, what: str, low_bits: LowBits | None = None) -> nn.Module:
    """Read all parameters and persistent buffers of a module that is on the meta device.

    Args:
        module: Changed in place.
        read: Reads one tensor.
        what: The part, for errors.
        low_bits: How the linear layers of repeated blocks are stored; None: in float32 as everything else.

    Raises:
        UserError: A tensor has another shape, or holds NaN or infinity; or as `read`.
    """
    small = {id(layer) for layer in frozen_layers(module)} if low_bits else set[int]()
    for place, child in list(module.named_modules()):
        for key in list(child._parameters):
            if child._parameters[key] is not None:
                tensor = _read(read, f"{place}.{key}" if place else key, child._parameters[key], what)
                child._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        for key in child._buffers.keys() - child._non_persistent_buffers_set:
            if child._buffers[key] is not None:
                child._buffers[key] = _read(read, f"{place}.{key}" if place else key, child._buffers[key], what)
        if low_bits and id(child) in small:
            store_layer(child, low_bits)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())), what
    return module


def _read(read: Read, name: str, wanted: Any, what: str) -> Tensor:
    """A tensor in float32, with memory of its own: a view of a mapped file would keep the file's pages."""
    shape = tuple(wanted.shape)
    tensor = read(name, shape)
    if tuple(tensor.shape) != shape:
        raise UserError(
            f"the {what} cannot be read: its config does not belong to its weights",
            got=f"{name} of shape {list(tensor.shape)} in its files",
            expected=f"{list(shape)} as its config says",
            fix="take weights and config from one model",
        )
    made = tensor.to(torch.float32, copy=True).contiguous() if wanted.is_floating_point() else tensor.clone()
    if not bool(made.isfinite().all()):
        raise UserError(f"the {what} holds NaN or infinity", got=name, fix="use another checkpoint")
    return made


def from_files(places: Mapping[str, Path], what: str) -> Read:
    """Reads tensors by their own names.

    Args:
        places: Name of a tensor -> the safetensors file that has it.
        what: The part, for errors.
    """

    def read(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in places:
            raise UserError(f"the {what} lacks a weight", got="no such tensor", expected=name, fix="download it again")
        return read_tensor(places[name], name)

    return read


def read_tensor(file: Path, name: str, rows: slice | None = None) -> Tensor:
    """A tensor of a safetensors file, or some of its rows. The file is closed again, so that no page of it stays mapped."""
    from safetensors import safe_open

    with library_errors(file.name, file), safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows]
