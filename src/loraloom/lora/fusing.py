"""Layers that other programs hold as one matrix, such as qkv: one LoRA of several, and several of one.

In: `LoraLayer` records, and which modules one layer holds. Out: the same update in the other form. Fusing stacks the As and
puts the Bs on a block diagonal, so that each layer keeps its own rank. Splitting takes them apart again, exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from loraloom.lora.layers import LoraLayer
from loraloom.lora.names import fused_layers, weight_shapes
from loraloom.protocols.model import DiffusionModel


def fuse_layers(model: DiffusionModel, layers: Iterable[LoraLayer]) -> list[LoraLayer]:
    """The layers with those that kohya's layout holds as one fused, in place of the first of them."""
    layers = list(layers)
    known = {(layer.part, layer.module): layer for layer in layers}
    fused = {part: fused_layers(model, part) for part in {layer.part for layer in layers}}
    shapes = {part: weight_shapes(model, part) for part, found in fused.items() if found}
    owners = {(part, name): one for part, found in fused.items() for one, names in found.items() for name in names}
    result: dict[tuple[str, str], LoraLayer] = {}
    for layer in layers:
        one = owners.get((layer.part, layer.module))
        if one is None:
            result[layer.part, layer.module] = layer
        elif (layer.part, one) not in result:
            names = fused[layer.part][one]
            members = [known.get((layer.part, name)) for name in names]
            result[layer.part, one] = fuse(one, members, [shapes[layer.part][name][0] for name in names])
    return list(result.values())


def fuse(module: str, members: Sequence[LoraLayer | None], rows: Sequence[int]) -> LoraLayer:
    """One update of `sum(rows)` outputs, named `module`, from those of its members, None for a member without one.

    The factor of each member goes into its B; alpha is the rank.
    """
    present = [member for member in members if member is not None]
    down = torch.cat([member.down for member in present])
    up = down.new_zeros(sum(rows), down.shape[0])
    row = column = 0
    for member, size in zip(members, rows, strict=True):
        if member is not None:
            up[row : row + size, column : column + member.rank] = member.up * member.factor
            column += member.rank
        row += size
    return LoraLayer(part=present[0].part, module=module, down=down, up=up, alpha=float(down.shape[0]))


def split(layer: LoraLayer, modules: Sequence[str], rows: Sequence[int]) -> list[LoraLayer | None]:
    """The updates of the members of one layer; None for a member that it leaves as it is.

    Ranks whose column of B is zero in a member do nothing there and are left out, with their share of alpha.
    """
    pieces = list(zip(modules, layer.up.split(list(rows)), strict=True))
    if not bool(layer.up.any()):  # nothing learned yet: every member keeps the whole rank
        return [replace(layer, module=name, up=piece) for name, piece in pieces]
    found: list[LoraLayer | None] = []
    for name, piece in pieces:
        used = piece.ne(0).any(dim=0)
        count = int(used.sum())
        alpha = layer.alpha * count / layer.rank
        part = replace(layer, module=name, down=layer.down[used], up=piece[:, used], alpha=alpha) if count else None
        found.append(part)
    return found


def split_layers(model: DiffusionModel, layers: Iterable[LoraLayer]) -> list[LoraLayer]:
    """The layers with every fused one taken apart into the modules of the model."""
    layers = list(layers)
    fused = {part: fused_layers(model, part) for part in {layer.part for layer in layers}}
    shapes = {part: weight_shapes(model, part) for part, found in fused.items() if found}
    result: list[LoraLayer] = []
    for layer in layers:
        names = fused[layer.part].get(layer.module)
        if names is None:
            result.append(layer)
            continue
        parts = split(layer, names, [shapes[layer.part][name][0] for name in names])
        result += [part for part in parts if part is not None]
    return result
