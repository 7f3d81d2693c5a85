"""Every random number as a function of (seed, epoch, sample id, purpose).

No generator state is kept or saved: resuming at any step is exact, and the numbers do not depend on how many devices
share the work. The idea of re-seeding by position: EDM2, `training_loop.py`.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a seed alone must not pay for torch
    import torch
    from torch import Tensor


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from any parts, the same on every machine (blake2b of the parts)."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A fresh generator for the parts. The CPU's gives the same numbers on every machine, a GPU's gives others."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(*parts))


def permutation(count: int, *parts: str | int) -> list[int]:
    """0 .. count - 1 in an order decided by the parts."""
    import torch

    return torch.randperm(count, generator=generator(*parts)).tolist()


def normal(shape: tuple[int, ...], *parts: str | int) -> "Tensor":
    """Standard normal float32 numbers decided by the parts."""
    import torch

    return torch.randn(shape, generator=generator(*parts))


def uniform(*parts: str | int) -> float:
    """One number in [0, 1) decided by the parts."""
    import torch

    return float(torch.rand((), generator=generator(*parts), dtype=torch.float64))
