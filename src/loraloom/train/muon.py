"""Muon: every direction of a matrix moves alike, however faint its gradient.

In: parameters with gradients. Out: moved parameters. A gradient's few strong directions hide the faint ones that tie words
to places; Muon replaces a matrix's momentum by the nearest matrix whose singular values are all one (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/). Vectors, embeddings, first and last layers have no such directions; AdamW moves
them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration (Jordan et al. 2024): steep at zero, singular values end between 0.7 and 1.2."""
ITERATIONS = 5
NOT_MATRICES = ("embed", "conv_in", "conv_out")
"""Words in the names of layers that Muon leaves to AdamW."""


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: convolutions count, as one row for each output channel."""
    return parameter.ndim >= 2 and not any(word in name for word in NOT_MATRICES)


def by_kind(parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters by name, as groups for `Muon`: matrices, and the rest; an empty group is left out."""
    groups = [
        {"params": [value for name, value in parameters.items() if is_matrix(name, value) == muon], "muon": muon}
        for muon in (True, False)
    ]
    return [group for group in groups if group["params"]]


def orthogonalise(matrices_nrc: Tensor) -> Tensor:
    """(n, rows, columns) to the same with all singular values near 1; a zero matrix stays zero."""
    a, b, c = COEFFICIENTS
    tall = matrices_nrc.shape[-2] > matrices_nrc.shape[-1]
    x = matrices_nrc.mT if tall else matrices_nrc
    x = x.to(torch.bfloat16 if x.is_cuda else torch.float32)  # the iteration forgives bfloat16; CPUs are slow at it
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_nrc.dtype)


def _stacked(directions: Sequence[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Which of some gradients are worked together, by the (rows, columns) that they are filled up to with zeros.

    A GPU waits for its launches with small matrices: sides are rounded up to powers of two there, which changes nothing,
    for rows and columns of zeros stay zeros.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for place, direction in enumerate(directions):
        sides = (direction.shape[0], direction.shape[1:].numel())
        if direction.is_cuda:
            sides = (1 << (sides[0] - 1).bit_length(), 1 << (sides[1] - 1).bit_length())
        groups.setdefault(sides, []).append(place)
    return groups


class Muon(torch.optim.AdamW):
    """Muon for groups with `muon=True`, AdamW for the others.

    torch.optim.Muon takes two-dimensional parameters only and one matrix at a time; this one takes convolutions too, and
    matrices of one shape together.

    A matrix moves by 0.2 * sqrt(max(rows, columns)) times the learning rate, so that its elements move about as far as
    AdamW's would and one learning rate serves both (Liu et al. 2025, https://arxiv.org/abs/2502.16982, eq. 4).
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, **adamw: Any) -> None:
        for group in groups:
            group["momentum"] = momentum
        super().__init__(groups, **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient; gradients of matrices are gone afterwards."""
        for group in self.param_groups:
            if group["muon"]:
                self._move(group)
        return super().step(closure)  # passes over what has no gradient

    def _move(self, group: dict[str, Any]) -> None:
        moving = [parameter for parameter in group["params"] if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moving]
        for parameter in moving:
            parameter.grad, state = None, self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
                state["step"] = torch.zeros(())  # unused, but AdamW restores no state without one
        if not moving:
            return
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in moving]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        moves = list(directions)  # Nesterov
        for (rows, columns), places in _stacked(directions).items():
            flat = [directions[place].flatten(1) for place in places]
            filled = [F.pad(one, (0, columns - one.shape[1], 0, rows - one.shape[0])) for one in flat]
            for place, move in zip(places, orthogonalise(torch.stack(filled)), strict=True):
                shape = moving[place].shape
                scale = 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
                moves[place] = (move[: shape[0], : shape[1:].numel()] * scale).reshape(shape)
        torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(moving, moves, alpha=-group["lr"])  # pyright: ignore[reportPrivateImportUsage]
