"""Devices and processes: the only importer of accelerate.

In: a precision. Out: where this process computes, what it shares with the others, and how it casts. Works alone, under
`accelerate launch` and under `torchrun`. LoRA gradients are a few megabytes, so there is no wrapper around the model: one
flat all-reduce a step carries the gradients and whatever few numbers must be agreed on.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from loraloom.config.run import Precision
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError


@dataclass(frozen=True, slots=True)
class Runtime:
    """This process among its kind.

    Attributes:
        accelerator: accelerate's handle; used here only.
        precision: `no`, `fp16` or `bf16`.
    """

    accelerator: Accelerator
    precision: Precision

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """0 .. num_devices - 1."""
        return self.accelerator.process_index

    @property
    def num_devices(self) -> int:
        """Processes that train together, one a device."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.accelerator.is_main_process

    @property
    def weight_dtype(self) -> torch.dtype:
        """Dtype of frozen weights."""
        return DTYPES[self.precision]

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the run's precision; does nothing for `no`."""
        return torch.autocast(self.device.type, dtype=self.weight_dtype, enabled=self.precision != "no")

    def barrier(self) -> None:
        """Wait for all processes."""
        self.accelerator.wait_for_everyone()

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """All processes' texts, in order of rank."""
        return list(gather_object(list(texts))) if self.num_devices > 1 else list(texts)

    def sum_numbers(self, numbers: Tensor) -> Tensor:
        """The sum over all processes of a small tensor."""
        return self.accelerator.reduce(numbers, "sum") if self.num_devices > 1 else numbers  # pyright: ignore[reportReturnType]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
        """Sum all gradients in place over all processes, and `numbers` (float32, 1-d) with them in the same message."""
        if self.num_devices == 1:
            return numbers
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([numbers, *(gradient.flatten() for gradient in gradients)])
        summed = self.sum_numbers(flat)
        start = numbers.numel()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            end = start + gradient.numel()
            parameter.grad = summed[start:end].view_as(gradient).to(gradient.dtype)
            start = end
        return summed[: numbers.numel()]

    def peak_memory_mib(self) -> float:
        """Most memory used so far: of the GPU where there is one, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return process_peak_mib()


def check_one_gpu_each(processes: int, gpus: int) -> None:
    """NCCL refuses two processes on one GPU, in words that name neither.

    Raises:
        UserError: This machine was given more processes than it has GPUs.
    """
    if processes > gpus:
        raise UserError(
            "every process needs a GPU of its own",
            got=f"{processes} processes",
            expected=f"at most {gpus} on this machine",
            fix=f"start with --nproc-per-node={gpus} (torchrun) or --num_processes {gpus} (accelerate), or train with --cpu",
        )


def make_runtime(precision: Precision, *, cpu: bool = False) -> Runtime:
    """Join the other processes, if any.

    Raises:
        UserError: The device cannot compute in that precision, or there are more processes here than GPUs.
    """
    if not cpu and torch.cuda.is_available():
        check_one_gpu_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    # Casting is ours: see `Runtime.autocast`. A process may sample until its deadline, or encode its part, while others wait.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patience])
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("fp16 training needs a GPU", fix="use train.mixed_precision=no (fastest on most CPUs) or bf16")
    if precision == "bf16" and accelerator.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("this GPU has no bf16", got=torch.cuda.get_device_name(), fix="use train.mixed_precision=fp16")
    return Runtime(accelerator, precision)


def process_peak_mib() -> float:
    """Peak resident memory of this process, MiB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
