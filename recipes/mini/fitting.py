"""Train a small module for a number of steps, with resume after an interruption.

In: a module, a loss of the step, a state file. Out: the module with the average of its weights. Used for every stage:
autoencoder, reading, grounding, denoiser and text-image contrast.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.train.muon import Muon, by_kind
from loraloom.train.optim import optimizer_tensors, restore_optimizer
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_tensors, write_tensors

SAVE_EVERY_S = 30.0
"""Seconds between saves; a GPU that was withdrawn after two minutes without a save cost 700 steps."""
LOG_EVERY = 50


@dataclass(frozen=True, slots=True)
class Fit:
    """Length and rates of a fit.

    Attributes:
        steps: Total number of optimizer steps.
        learning_rate: Peak rate, after 200 steps of warm-up (or a tenth of all) and before a half cosine to a hundredth.
        weight_decay: Decoupled weight decay.
        muon: Optimize the matrices with Muon.
        average: Decay of the moving average of the weights, which is the result.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    muon: bool = False
    average: float = 0.995

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0."""
        warm = min(1.0, (step + 1) / min(200, 1 + self.steps // 10))
        share = step / max(1, self.steps)
        return self.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True, slots=True)
class Way:
    """Batch size, precision and compilation of a fit.

    Attributes:
        batch_size: Number of images in a step.
        precision: `no` for float32, or `bf16` on a GPU.
        record: Record the forward and backward pass once on a GPU and replay it (CUDA graphs); otherwise a small model
            waits for its host.
        compiled: Use torch.compile, which takes one or two minutes and gives fewer and larger kernels.
    """

    batch_size: int
    precision: str = "no"
    record: bool = False
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self, device: str) -> AbstractContextManager[object]:
        """Compute in this precision."""
        if self.precision == "no":
            return nullcontext()
        # Casts that are cached between passes cannot be recorded.
        return torch.autocast(device, self.dtype, cache_enabled=not self.record)

    def recorded(self, module: nn.Module, *examples: Tensor) -> nn.Module:
        """The module to call in training, only with tensors of the examples' shapes."""
        if not self.record:
            return module
        return torch.cuda.make_graphed_callables(module, examples, allow_unused_input=True)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Job:
    """State file, log, device and deadline of a fit.

    Attributes:
        state: Safetensors file, replaced every half minute, before a call of `watch` and at the end.
        say: Called with a line of the log every 50 steps.
        device: Device of module and batches.
        deadline: `time.monotonic` after which the fit saves and returns False.
        watch: Called with the number of steps done, every `watch_every` steps (0: never) and at the end, after the state is
            saved. Also called at the start if the state is at such a number, because an earlier call may have been
            interrupted.
    """

    state: Path
    say: Callable[[str], None]
    device: str = "cpu"
    deadline: float = math.inf
    watch: Callable[[int], None] = lambda done: None
    watch_every: int = 0

    def calls_watch(self, done: int, steps: int) -> bool:
        """Whether `watch` is called after `done` of `steps` steps."""
        return self.watch_every > 0 and (done == steps or done % self.watch_every == 0)


Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Loss of a step, counted from 0: () float32, and numbers for the log."""


def fit(
    module: nn.Module, loss: Loss, how: Fit, job: Job, *, memory: Mapping[str, Tensor] = MappingProxyType({})
) -> bool:
    """Train, or resume from the job's state; returns whether all steps are done.

    Args:
        module: Module whose parameters with gradients are trained; at the end it has their average.
        loss: Loss function; must depend only on the step, the module and the memory.
        how: Number of steps and rates.
        job: State file, log and deadline; its device is that of the module.
        memory: Tensors that the loss keeps between steps and changes in place; part of the state.
    """
    state = job.state
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    common: dict[str, Any] = {
        "lr": how.learning_rate, "betas": (0.9, 0.99), "weight_decay": how.weight_decay, "fused": True,
    }  # fmt: skip
    optimizer = Muon(by_kind(parameters), **common) if how.muon else torch.optim.AdamW(parameters.values(), **common)
    start = _restore(state, parameters, average, optimizer, memory) if state.is_file() else 0
    if start and job.calls_watch(start, how.steps):
        job.watch(start)
    saved = time.monotonic()
    for step in range(start, how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.rate(step)
        value, numbers = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(how.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(average.values()), [parameter.detach() for parameter in parameters.values()], 1 - decay
        )
        done = step + 1
        if done % LOG_EVERY == 0 or done == how.steps:
            shown = "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())
            job.say(f"{state.stem} {done}/{how.steps}  loss {float(value.detach()):.4f}  {shown}")
        late = time.monotonic() > job.deadline
        watched = job.calls_watch(done, how.steps)
        if done == how.steps or late or watched or time.monotonic() - saved > SAVE_EVERY_S:
            _save(state, done, parameters, average, optimizer, memory)
            saved = time.monotonic()
        if watched and not late:
            job.watch(done)
        if late and done < how.steps:
            return False
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    return True


def read_average(state: Path) -> dict[str, Tensor]:
    """The averaged weights in a state file, by name."""
    tensors, _ = read_tensors(state)
    return {name.removeprefix("average."): value for name, value in tensors.items() if name.startswith("average.")}


def _save(
    state: Path,
    done: int,
    parameters: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizer: Any,
    memory: Mapping[str, Tensor],
) -> None:
    tensors, _ = optimizer_tensors(optimizer)
    every = {f"weight.{name}": parameter.detach() for name, parameter in parameters.items()}
    every |= {f"average.{name}": tensor for name, tensor in average.items()}
    every |= {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
    every |= {f"memory.{name}": tensor for name, tensor in memory.items()}
    state.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(state, {name: tensor.contiguous().cpu() for name, tensor in every.items()}, {"step": str(done)})


def _restore(
    state: Path,
    parameters: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    memory: Mapping[str, Tensor],
) -> int:
    tensors, record = read_tensors(state)
    weights = {name.removeprefix("weight."): value for name, value in tensors.items() if name.startswith("weight.")}
    kept = {name.removeprefix("memory.") for name in tensors if name.startswith("memory.")}
    differs = weights.keys() != parameters.keys() or kept != memory.keys()
    if differs or any(weights[name].shape != parameters[name].shape for name in weights):
        raise UserError("the saved state has another layout", got=str(state), fix="delete it to begin again")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            average[name].copy_(tensors[f"average.{name}"])
        for name, remembered in memory.items():
            remembered.copy_(tensors[f"memory.{name}"])
    own = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
    _, rest = optimizer_tensors(optimizer)
    restore_optimizer(optimizer, own, rest)
    return int(record["step"])
