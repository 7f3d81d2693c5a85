"""Weights that let every noise level count alike, learned from the losses that training has seen.

In: the loss and timestep of each image learned from. Out: a weight for each timestep: one over the running mean of the
loss there, the mean of all weights being 1. The uncertainty weighting of Karras et al. 2024 ("Analyzing and improving the
training dynamics of diffusion models", after Kendall et al. 2018) goes there too; a histogram needs no network of its own.
It does not depend on the prediction type: each noise level contributes the same in all of them.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from loraloom.utils.errors import UserError

BUCKETS = 16
DECAY = 0.98
"""Share of the running mean that each step keeps: it remembers about fifty steps."""


class NoiseBalance:
    """The running mean of the loss in `BUCKETS` equal parts of the forward process.

    Args:
        num_timesteps: Timesteps of the forward process.
        device: Where losses are; nothing here waits for it.
    """

    def __init__(self, num_timesteps: int, device: torch.device | str = "cpu") -> None:
        self._num_timesteps = num_timesteps
        # Decayed sums: losses, and of how many images. Changed in place: a state that holds it, holds it as it is.
        self.seen_2k = torch.zeros(2, BUCKETS, device=device)
        places_k = torch.arange(BUCKETS, device=device)
        # A bucket that has seen little goes by its neighbours; all see something, for 4 ** -15 is not 0 in float32.
        self._near_kk = 4.0 ** -(places_k[:, None] - places_k).abs().float()

    def weights(self, timesteps_b: Tensor) -> Tensor:
        """(b,) float32, between the middles of buckets on a line; 1 as long as nothing was seen."""
        sums_k, counts_k = self.seen_2k @ self._near_kk
        inverse_k = counts_k / sums_k
        weights_k = torch.where(torch.isfinite(inverse_k), inverse_k, 1.0)
        weights_k = weights_k / weights_k.mean()
        place_b = ((timesteps_b + 0.5) * (BUCKETS / self._num_timesteps) - 0.5).clamp(0, BUCKETS - 1)
        below_b = place_b.long().clamp(max=BUCKETS - 2)
        return torch.lerp(weights_k[below_b], weights_k[below_b + 1], place_b - below_b)

    def tally(self, losses_b: Tensor, timesteps_b: Tensor, weights_b: Tensor) -> Tensor:
        """(2 * BUCKETS,) float32: what some images add; the sum over all devices goes to `update`.

        Args:
            losses_b: Without the weights of `weights`.
            timesteps_b: int64.
            weights_b: 0 for repeats, which do not count.
        """
        buckets_b = timesteps_b * BUCKETS // self._num_timesteps
        added_2b = torch.stack([losses_b.detach().float() * weights_b, weights_b])
        # A product: adding by index sums in any order on a GPU, and a resume would not repeat it exactly.
        return (added_2b @ F.one_hot(buckets_b, BUCKETS).float()).flatten()

    def update(self, tally: Tensor, finite: Tensor) -> None:
        """Take in a step's tally, unless its loss or gradient was not finite."""
        told = self.seen_2k * DECAY + tally.view_as(self.seen_2k)
        self.seen_2k.copy_(torch.where(finite, told, self.seen_2k))

    def state_dict(self) -> dict[str, Tensor]:
        """The decayed sums."""
        return {"seen_2k": self.seen_2k}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue with decayed sums.

        Raises:
            UserError: They have another shape.
        """
        seen_2k = state["seen_2k"]
        if seen_2k.shape != self.seen_2k.shape:
            raise UserError(
                "the noise balance has another shape", got=tuple(seen_2k.shape), expected=tuple(self.seen_2k.shape)
            )
        self.seen_2k.copy_(seen_2k)
