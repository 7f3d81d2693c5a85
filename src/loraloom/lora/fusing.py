"""Layers that other programs hold as one matrix, such as qkv: one LoRA of several, and several of one.

In: pairs (A, B, alpha) by module, and which modules one layer holds. Out: the same update in the other form. Fusing stacks the
As and puts the Bs on a block diagonal, so that each layer keeps its own rank; splitting takes them apart again, exactly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loraloom.lora.names import base_modules, fused_layers
from loraloom.protocols.model import DiffusionModel

Pair = tuple[Tensor, Tensor, float]
Layers = dict[str, dict[str, Pair]]
"""Part -> module name -> (A, B, alpha)."""


def fuse_layers(model: DiffusionModel, layers: Layers) -> Layers:
    """The layers with those that kohya's layout holds as one fused, in place of the first of them."""
    result: Layers = {}
    for part, modules in layers.items():
        owner = {name: one for one, names in fused_layers(model, part).items() for name in names}
        shapes = base_modules(model.modules.get(part))
        fused: dict[str, Pair] = {}
        for name, pair in modules.items():
            one = owner.get(name)
            if one is None:
                fused[name] = pair
            elif one not in fused:
                members = [member for member in owner if owner[member] == one]
                fused[one] = fuse([modules.get(member) for member in members], [_rows(shapes[m]) for m in members])
        result[part] = fused
    return result


def fuse(pairs: Sequence[Pair | None], rows: Sequence[int]) -> Pair:
    """One update of `sum(rows)` outputs from those of its parts, None for a part without one.

    The scale of each part goes into its B; alpha is the rank.
    """
    present = [pair for pair in pairs if pair is not None]
    down = torch.cat([pair[0] for pair in present])
    up = down.new_zeros(sum(rows), down.shape[0])
    row = column = 0
    for pair, size in zip(pairs, rows, strict=True):
        if pair is not None:
            rank = pair[0].shape[0]
            up[row : row + size, column : column + rank] = pair[1] * (pair[2] / rank)
            column += rank
        row += size
    return down, up, float(down.shape[0])


def split(pair: Pair, rows: Sequence[int]) -> list[Pair | None]:
    """The updates of the parts of one layer; None for a part that is left as it is.

    Ranks whose column of B is zero in a part do nothing there and are left out, with their share of alpha.
    """
    down, up, alpha = pair
    if not bool(up.any()):  # nothing learned yet: every part keeps the whole rank
        return [(down, piece, alpha) for piece in up.split(list(rows))]
    found: list[Pair | None] = []
    for piece in up.split(list(rows)):
        used = piece.ne(0).any(dim=0)
        count = int(used.sum())
        found.append((down[used], piece[:, used], alpha * count / down.shape[0]) if count else None)
    return found


def fused_shape(model: DiffusionModel, part: str, modules: Sequence[str]) -> tuple[int, int]:
    """(outputs, inputs) of the one layer that holds these modules."""
    weights = base_modules(model.modules.get(part))
    inputs = {int(weights[name].weight.shape[1]) for name in modules}  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
    assert len(inputs) == 1, "layers that read different inputs cannot be one"
    return sum(_rows(weights[name]) for name in modules), inputs.pop()


def split_layers(model: DiffusionModel, layers: Layers) -> Layers:
    """The layers with every fused one taken apart into the modules of the model."""
    result: Layers = {}
    for part, modules in layers.items():
        fused = fused_layers(model, part)
        weights = base_modules(model.modules.get(part))
        own = result.setdefault(part, {})
        for name, pair in modules.items():
            if name not in fused:
                own[name] = pair
                continue
            parts = split(pair, [_rows(weights[member]) for member in fused[name]])
            own.update({member: piece for member, piece in zip(fused[name], parts, strict=True) if piece is not None})
    return result


def _rows(module: torch.nn.Module) -> int:
    return int(module.weight.shape[0])  # pyright: ignore[reportArgumentType, reportCallIssue, reportIndexIssue]
