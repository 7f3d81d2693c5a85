"""Changes of weights as products of small matrices: concatenation, truncated SVD, and the errors that it makes.

In: `LoraLayer` records, or a whole change of a weight. Out: `LoraLayer` records with alpha = rank, each with what was lost.
Truncated SVD is the best approximation of a rank in the Frobenius norm (Eckart & Young 1936). Everything is computed in
float64 from the small matrices; the change of a layer is never multiplied out to be truncated.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loraloom.lora.layers import LoraLayer

Place = tuple[str, str]
"""Part and module."""

_NOTHING = 1e-12
"""Singular values below this share of the largest are rounding of zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLimit:
    """How much of a change is kept.

    Attributes:
        rank: Largest rank; None for any.
        error: Largest relative error of a layer in the Frobenius norm, 0 to 1; None for any. The smallest rank that satisfies
            it is taken. An energy share e, the share of the squared singular values that is kept, is the error sqrt(1 - e).
    """

    rank: int | None = None
    error: float | None = None

    def count(self, values: Tensor) -> int:
        """The rank for singular values in descending order, 1 at least."""
        whole = int((values > values.max() * _NOTHING).sum()) if len(values) else 0
        count = whole
        if self.error is not None:
            tails = (
                values.square().flip(0).cumsum(0).flip(0)
            )  # the squared error where the values from here on are left out
            count = min(whole, int((tails > self.error**2 * tails[0]).sum()))
        if self.rank is not None:
            count = min(count, self.rank)
        return max(count, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """A layer of a smaller rank, and what was lost.

    Attributes:
        layer: Has alpha = rank, unless it is the layer that was given.
        rank_before: The rank that was given; of a whole change the largest that its shape allows.
        norm: Frobenius norm of the change that was given.
        error: Frobenius norm of the difference.
    """

    layer: LoraLayer
    rank_before: int
    norm: float
    error: float

    @property
    def place(self) -> Place:
        """Part and module."""
        return self.layer.part, self.layer.module

    @property
    def relative(self) -> float:
        """The error divided by the norm; 0 for a change of zero."""
        return self.error / self.norm if self.norm > 0 else 0.0


def total_error(found: Iterable[Truncated]) -> float:
    """The relative error of all layers together."""
    found = list(found)
    norm = math.hypot(*(one.norm for one in found))
    return math.hypot(*(one.error for one in found)) / norm if norm > 0 else 0.0


def truncate(layer: LoraLayer, limit: RankLimit) -> Truncated:
    """The best approximation of a layer within the limit; the layer itself where that has no smaller rank."""
    up, down = _factors(layer)
    left, first = torch.linalg.qr(up)
    right, second = torch.linalg.qr(down.T)
    inner, values, other = torch.linalg.svd(first @ second.T)
    count = limit.count(values)
    norm = float(values.norm())
    if count >= layer.rank:
        return Truncated(layer=layer, rank_before=layer.rank, norm=norm, error=0.0)
    root = values[:count].sqrt()
    kept = replace(
        layer,
        up=_shaped((left @ inner[:, :count]) * root, layer.up.shape, count, rows=True),
        down=_shaped(root[:, None] * (other[:count] @ right.T), layer.down.shape, count, rows=False),
        alpha=float(count),
    )
    return Truncated(layer=kept, rank_before=layer.rank, norm=norm, error=float(values[count:].norm()))


def approximate(place: Place, change: Tensor, limit: RankLimit) -> Truncated:
    """The best approximation of a whole change (out, in) or (out, in, kernel height, kernel width) within the limit.

    From the eigenvectors of the smaller Gram matrix in float64: singular values are exact to 1e-8 of the largest.
    """
    matrix = change.flatten(1).double()
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    squares, vectors = torch.linalg.eigh(gram)
    values, vectors = squares.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    count = limit.count(torch.where(values > values.max() * 1e-8, values, 0))
    basis, root = vectors[:, :count], values[:count].sqrt()
    inverse = torch.where(root > 0, 1 / root.clamp_min(1e-150), 0)
    if wide:
        up, down = basis * root, inverse[:, None] * (basis.T @ matrix)
    else:
        up, down = (matrix @ basis) * inverse, root[:, None] * basis.T
    kernel = change.shape[2:]
    layer = LoraLayer(
        part=place[0],
        module=place[1],
        down=down.reshape(count, *change.shape[1:]).float(),
        up=up.reshape(change.shape[0], count, *[1] * len(kernel)).float(),
        alpha=float(count),
    )
    lost = float(values[count:].norm())
    return Truncated(layer=layer, rank_before=min(matrix.shape), norm=float(values.norm()), error=lost)


def concatenate(entries: Sequence[tuple[LoraLayer, float]]) -> LoraLayer:
    """The exact sum of layers of one place, each with a scale: the As stacked, the Bs beside each other."""
    layers = [layer for layer, _ in entries]
    downs, ups = _alike([layer.down for layer in layers]), _alike([layer.up for layer in layers])
    scaled = [up * (layer.factor * scale) for up, (layer, scale) in zip(ups, entries, strict=True)]
    down = torch.cat(downs)
    return replace(layers[0], down=down, up=torch.cat(scaled, dim=1), alpha=float(down.shape[0]))


def norm_of(layer: LoraLayer) -> float:
    """Frobenius norm of a layer's change."""
    up, down = _factors(layer)
    return float((torch.linalg.qr(up)[1] @ torch.linalg.qr(down.T)[1].T).norm())


def difference(first: Mapping[Place, LoraLayer], second: Mapping[Place, LoraLayer]) -> float:
    """Frobenius norm of the difference of two sets of changes, relative to the first's; a missing layer is a change of zero."""
    squares = 0.0
    for place in first.keys() | second.keys():
        mine, other = first.get(place), second.get(place)
        if mine is None or other is None:
            one = mine or other
            assert one is not None
            squares += norm_of(one) ** 2
        else:
            squares += norm_of(concatenate([(mine, 1.0), (other, -1.0)])) ** 2
    norm = math.hypot(*(norm_of(layer) for layer in first.values()))
    return math.sqrt(squares) / norm if norm > 0 else math.sqrt(squares)


def _factors(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """B with alpha / rank multiplied into it, and A: matrices, float64."""
    return layer.up.flatten(1).double() * layer.factor, layer.down.flatten(1).double()


def _shaped(matrix: Tensor, shape: torch.Size, count: int, *, rows: bool) -> Tensor:
    """A matrix with the further dimensions that the tensor had whose place it takes, float32."""
    new = (shape[0], count, *shape[2:]) if rows else (count, *shape[1:])
    return matrix.reshape(new).float().contiguous()


def _alike(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of one place with equal further dimensions: files have kernels as they are or flattened."""
    full = max(tensors, key=lambda tensor: tensor.dim())
    if full.dim() == 2:
        return tensors
    return [
        tensor if tensor.dim() == full.dim() else tensor.reshape(*tensor.shape[:1], -1, *full.shape[2:])
        for tensor in tensors
    ]
