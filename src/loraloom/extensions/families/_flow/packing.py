"""Latents as a sequence of patches of 2 x 2, and the positions of these patches, as FLUX's denoisers take them.

In: latents. Out: (b, h/2 w/2, 4 c) tokens, row by row, and back.
"""

import torch
from torch import Tensor, nn


def pack(latents_bchw: Tensor) -> Tensor:
    """(b, c, h, w) to (b, h/2 w/2, 4 c); a patch's numbers by channel, row, column."""
    return nn.functional.pixel_unshuffle(latents_bchw, 2).flatten(2).transpose(1, 2)


def unpack(packed_bld: Tensor, height: int, width: int) -> Tensor:
    """The reverse, for latents of that many rows and columns."""
    return nn.functional.pixel_shuffle(packed_bld.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def positions(height: int, width: int, axes: int, device: torch.device) -> Tensor:
    """(height x width, axes) float32 positions of a grid of patches: row on axis 1, column on axis 2, else 0."""
    ids = torch.zeros(height, width, axes, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)
    return ids.flatten(0, 1)
