"""Muon: every direction of a matrix moves alike, however faint its gradient.

In: parameters with gradients. Out: moved parameters. A gradient's few strong directions hide the faint ones that tie words
to places; Muon replaces a matrix's momentum by the nearest matrix whose singular values are all one (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/). Vectors, embeddings, first and last layers have no such directions; AdamW moves
them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration (Jordan et al. 2024): steep at zero, singular values end between 0.7 and 1.2."""
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
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices_nrc.dtype)


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
        shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
                state["step"] = torch.zeros(())  # unused, but AdamW restores no state without one
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            direction = gradient.lerp(momentum, group["momentum"])  # Nesterov
            shapes.setdefault(parameter.shape, []).append((parameter, direction.flatten(1)))
        for shape, moving in shapes.items():
            scale = 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
            moves = orthogonalise(torch.stack([direction for _, direction in moving])) * scale
            for (parameter, _), move in zip(moving, moves, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(move.view(shape), alpha=-group["lr"])
