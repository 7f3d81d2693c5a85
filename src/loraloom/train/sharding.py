"""Every rank keeps its part of the weights, the gradients and the optimizer state (FSDP2), for `--method full`.

In: a denoiser on the CPU. Out: the same module with split parameters, gathered block by block while it computes; and at the
end of a run the whole weights in the main process. What a step learns is what it learns without: gradients are summed.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from loraloom.models.block_swap import repeated_blocks
from loraloom.train.full import attach_full
from loraloom.train.optim import Ema
from loraloom.utils.sharded import is_sharded

if TYPE_CHECKING:
    from loraloom.train.state import Run


def shard(module: nn.Module, device: torch.device) -> None:
    """Split the parameters of a module over all ranks, a group for each repeated block and one for the rest.

    A group moves to the device when it is split, so the whole module never lies there. All parameters have one dtype.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    for block in (*repeated_blocks(module).values(), module):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.set_gradient_divide_factor(1.0)  # a loss is a share of the step's, so gradients are summed
            each.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it sums
            # The buffers of the first gathering stay: made in a sample they could not be used for training.
            each.unshard()
            each.reshard()


def shard_line(module: nn.Module, num_ranks: int) -> str:
    """What each rank keeps of a split module."""
    count = sum(parameter.numel() for parameter in module.parameters())
    return (
        f"{count:,} weights are split over {num_ranks} ranks: each keeps about {count / num_ranks:,.0f}, with their gradients "
        "and optimizer state"
    )


def shared_out(run: "Run") -> bool:
    """Whether a rank of this run holds only its part of the trained weights."""
    return any(is_sharded(parameter) for parameter in run.train_state.adapter.parameters.values())


def gather(run: "Run") -> None:
    """Replace the split module by a whole one on the CPU of the main process, for what comes after the last step.

    Every rank calls it; on the others the weights are as they were.
    """
    state, is_main = run.train_state, run.train_state.runtime.is_main
    weights = state.adapter.state()
    average = state.ema.state_dict() if state.ema else {}
    if not is_main:
        return
    for part in state.adapter.modules:
        state.model.modules.drop(part)
        state.model.modules.place(part, torch.device("cpu"), torch.float32)
    state.adapter = attach_full(state.model, text_encoder=False)
    state.adapter.load(weights)
    if state.ema and run.config.lora.ema_decay:
        state.ema = Ema(state.adapter.parameters, run.config.lora.ema_decay)
        state.ema.load_state_dict(average)
