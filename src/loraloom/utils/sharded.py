"""Tensors that are split over the ranks (PyTorch's `DTensor`), for code that must not care whether they are.

In: any tensor. Out: the whole of it, or a tensor overwritten with whole values. A tensor that is not split costs nothing
here; for one that is, every rank must make the same calls in the same order.
"""

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a rank holds only its part of the tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank, on the device of the part; the tensor itself if it is not split."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def on_main(tensor: Tensor) -> Tensor:
    """The whole tensor on the CPU of rank 0, and an empty one on other ranks: only rank 0 writes files.

    A tensor that is not split is returned as it is, on every rank.
    """
    if not is_sharded(tensor):
        return tensor
    gathered = whole(tensor)
    return gathered.cpu() if torch.distributed.get_rank() == 0 else torch.empty(0, dtype=tensor.dtype)


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """Whole `values`, the same on every rank, split as `tensor` is: same dtype and device. No rank sends anything."""
    if not is_sharded(tensor):
        return values.to(tensor.device, tensor.dtype)
    from torch.distributed.tensor import distribute_tensor

    split: Any = tensor
    return distribute_tensor(values.to(tensor.dtype), split.device_mesh, split.placements, src_data_rank=None)
