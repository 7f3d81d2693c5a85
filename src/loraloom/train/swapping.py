"""Block swap and low bits in a training run: whether this run can use them, and what they save.

In: settings, the device, and the swap that was made. Out: nothing, or a `UserError` before anything is encoded; one line.
"""

import os

import torch
from torch import nn

from loraloom.config.run import RunConfig
from loraloom.models.block_swap import MOST_UNFINISHED, BlockSwap
from loraloom.models.low_bits import LowBitLinear, LowBits, stored_bytes
from loraloom.utils.errors import UserError

ON_CPU = "LORALOOM_BLOCK_SWAP_ON_CPU"
"""Environment variable that lets tests swap on a machine without a GPU, where it saves nothing."""


def check_block_swap(config: RunConfig, device: torch.device) -> None:
    """Raise `UserError` for a block swap that cannot save memory: there is no GPU whose memory could be saved."""
    if config.train.block_swap and device.type == "cpu" and not os.environ.get(ON_CPU):
        raise UserError(
            "block swap moves weights from CPU memory to a GPU, and this run has no GPU",
            got=f"train.block_swap={config.train.block_swap:g}",
            fix="leave train.block_swap off",
        )


def swap_line(swap: BlockSwap, num_blocks: int, frozen_bytes: int) -> str:
    """How much of the frozen weights is left on the device, and what is there beside it for a moment."""
    left = (frozen_bytes - swap.swapped_bytes) / 2**20
    beside = min(len(swap.names), MOST_UNFINISHED + 2) * swap.largest_bytes / 2**20
    return (
        f"block swap: {len(swap.names)} of {num_blocks} blocks stay in CPU memory; {left:,.1f} of "
        f"{frozen_bytes / 2**20:,.1f} MiB of frozen weights are on the device, and copies of at most {beside:,.1f} MiB beside "
        "them"
    )


def low_bits_line(denoiser: nn.Module, kind: LowBits, dtype: torch.dtype) -> str:
    """What the low bits of a denoiser save and cost.

    Args:
        denoiser: Was read in low bits.
        kind: Which.
        dtype: What its weights would be stored as without.

    Raises:
        UserError: It has no layers that could be stored so.
    """
    layers = [layer for layer in denoiser.modules() if isinstance(layer, LowBitLinear)]
    if not layers:
        raise UserError(
            "the denoiser of this model has no frozen linear layers in blocks that could be stored in low bits",
            got=f"train.low_bits={kind}",
            fix="leave train.low_bits out",
        )
    after = frozen_bytes(denoiser)
    saved = sum(layer.in_features * layer.out_features * dtype.itemsize - stored_bytes(layer) for layer in layers)
    return (
        f"low bits: {len(layers)} layers are stored as {kind}; frozen weights take {after / 2**20:,.1f} MiB instead of "
        f"{(after + saved) / 2**20:,.1f}; layers are expanded while they compute, so that steps are slower than in bf16 "
        "where that fits"
    )


def frozen_bytes(module: nn.Module) -> int:
    """Bytes of the weights of a module that do not learn."""
    return sum(weight.numel() * weight.element_size() for weight in module.parameters() if not weight.requires_grad)
