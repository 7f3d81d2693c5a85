"""How much two LoRAs act on the same weights: a figure to read before they are blended.

In: the layers of two plain LoRAs. Out: the cosine of their changes of the weights, and the overlap of the inputs that they
read, over all layers and for each. Everything is computed from the small matrices; no base weight and no image is required.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Place = tuple[str, str]
"""Part and module."""
Pair = tuple[Tensor, Tensor]
"""down (rank, in) and up (out, rank), float32, the factor alpha / rank multiplied into one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """How two LoRAs act on each other.

    Attributes:
        cosine: Cosine of the two changes as long vectors, -1 to 1: 0 is no interference in the weights, 1 the same change,
            below 0 they undo each other. 0 where no layer is shared.
        overlap: Mean over shared layers of the share of the smaller one's input directions that the other reads too, 0 to 1.
            Random directions have about rank / inputs.
        layers: The cosine in each shared layer.
        shared: Layers that both change.
        only_first, only_second: Layers that one of them changes.
    """

    cosine: float
    overlap: float
    layers: Mapping[Place, float]
    shared: int
    only_first: int
    only_second: int


def interference(first: Mapping[Place, Pair], second: Mapping[Place, Pair]) -> Interference:
    """The interference of two LoRAs, from their matrices by layer."""
    shared = sorted(first.keys() & second.keys())
    layers: dict[Place, float] = {}
    overlaps: list[float] = []
    dot = 0.0
    for place in shared:
        mine, other = _wide(first[place]), _wide(second[place])
        inner = _inner(mine, other)
        norms = (_inner(mine, mine) * _inner(other, other)) ** 0.5
        layers[place] = inner / norms if norms > 0 else 0.0
        dot += inner
        overlaps.append(_overlap(mine[0], other[0]))
    norms = (_square(first) * _square(second)) ** 0.5
    return Interference(
        cosine=dot / norms if norms > 0 else 0.0,
        overlap=sum(overlaps) / len(overlaps) if overlaps else 0.0,
        layers=layers,
        shared=len(shared),
        only_first=len(first) - len(shared),
        only_second=len(second) - len(shared),
    )


def _wide(pair: Pair) -> Pair:
    return pair[0].flatten(1).double(), pair[1].flatten(1).double()


def _inner(one: Pair, other: Pair) -> float:
    """<B1 A1, B2 A2> without the products of full size."""
    return float(((one[1].T @ other[1]) * (one[0] @ other[0].T)).sum())


def _square(pairs: Mapping[Place, Pair]) -> float:
    """The squared norm of a whole change."""
    return sum(_inner(_wide(pair), _wide(pair)) for pair in pairs.values())


def _overlap(down: Tensor, other: Tensor) -> float:
    """The mean squared cosine of the principal angles between two row spaces."""
    bases = []
    for rows in (down, other):
        _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
        bases.append(directions[sizes > sizes.max().clamp_min(1e-30) * 1e-6])
    smaller = min(len(basis) for basis in bases)
    return float((bases[0] @ bases[1].T).square().sum()) / smaller if smaller else 0.0
