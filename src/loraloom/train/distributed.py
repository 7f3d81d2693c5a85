"""Devices and processes: the only importer of accelerate.

In: a precision. Out: where this process computes, what it shares with the others, and how it casts. Works alone, under
`accelerate launch` and under `torchrun`. LoRA gradients are a few megabytes, so there is no wrapper around the model: one
flat all-reduce a step carries the gradients and whatever few numbers must be agreed on.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from loraloom.config.run import Precision
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import LostRankError, UserError
from loraloom.utils.heartbeat import heartbeat, node_name
from loraloom.utils.ranks import BACKEND
from loraloom.utils.sharded import is_sharded


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
    def on_main_machine(self) -> bool:
        """Whether this process is on the machine of rank 0, and so sees its disk."""
        return self.rank == self.accelerator.local_process_index

    @property
    def weight_dtype(self) -> torch.dtype:
        """Dtype of frozen weights."""
        return DTYPES[self.precision]

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the run's precision; does nothing for `no`."""
        return torch.autocast(self.device.type, dtype=self.weight_dtype, enabled=self.precision != "no")

    def barrier(self) -> None:
        """Wait for all processes."""
        with needs_all_ranks():
            self.accelerator.wait_for_everyone()

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """All processes' texts, in order of rank."""
        if self.num_devices == 1:
            return list(texts)
        with needs_all_ranks():
            return list(gather_object(list(texts)))

    def check_equal(self, what: str, text: str, fix: str) -> None:
        """Compare a text, such as a hash, over all ranks.

        Raises:
            UserError: On every rank alike; names the ranks that differ from most of them.
        """
        seen = self.gather_texts([f"{text} {node_name()}"])
        texts = [entry.partition(" ")[0] for entry in seen]
        if len(set(texts)) == 1:
            return
        usual = max(texts, key=lambda one: (texts.count(one), -texts.index(one)))  # rank 0's where no majority is
        others = [f"rank {rank} (on {seen[rank].partition(' ')[2]})" for rank, one in enumerate(texts) if one != usual]
        named = ", ".join(others)
        raise UserError(
            f"{what}: {named} differ{'s' * (len(others) == 1)} from {'the others' if len(texts) > 2 else 'rank 0'}",
            fix=fix,
        )

    def sum_numbers(self, numbers: Tensor) -> Tensor:
        """The sum over all processes of a small tensor."""
        if self.num_devices == 1:
            return numbers
        with needs_all_ranks():
            return self.accelerator.reduce(numbers, "sum")  # pyright: ignore[reportReturnType]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
        """Sum all gradients in place over all processes, and `numbers` (float32, 1-d) with them in the same message.

        Gradients of split parameters are summed in the backward pass already.
        """
        if self.num_devices == 1:
            return numbers
        parameters = [parameter for parameter in parameters if not is_sharded(parameter)]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([numbers, *(gradient.flatten() for gradient in gradients)])
        summed = self.sum_numbers(flat)
        start = numbers.numel()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            end = start + gradient.numel()
            parameter.grad = summed[start:end].view_as(gradient).to(gradient.dtype)
            start = end
        return summed[: numbers.numel()]

    def gpu_uuid(self) -> str:
        """UUID of this process's GPU as the driver writes it; empty without an NVIDIA GPU."""
        if self.device.type != "cuda" or torch.version.hip:
            return ""
        return f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"

    def peak_memory_mib(self) -> float:
        """Most memory used so far: of the GPU where there is one, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return process_peak_mib()


@contextmanager
def needs_all_ranks() -> Iterator[None]:
    """Turn the error of a collective into one line about the process that is missing.

    Raises:
        LostRankError: Another process has ended, or does not answer.
    """
    heartbeat().enter()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo, NCCL and the store each have errors of their own, all of them RuntimeErrors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LostRankError(
            "another process of this run has ended or does not answer",
            got=reason[:160],
            fix="its own message says why; the same command resumes from the newest checkpoint",
        ) from error


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
            fix=f"start with --num-processes {gpus}, --nproc-per-node={gpus} (torchrun) or --num_processes {gpus} "
            "(accelerate), or train with --cpu",
        )


def check_all_joined(processes: int, expected: int) -> None:
    """A process that trains beside the others instead of with them learns from its own images alone, and nothing fails.

    Raises:
        UserError: The process group has another size than the launcher said.
    """
    if processes != expected:
        raise UserError(
            f"this process on {node_name()} did not join the others",
            got=f"a process group of {processes}",
            expected=f"{expected} processes (WORLD_SIZE)",
            fix="look for settings of accelerate or MPI in the environment of that machine (ACCELERATE_*, PMI_SIZE)",
        )


def choose_backend() -> str:
    """`nccl`, which on a CPU means gloo, or `gloo` for GPUs too: without NCCL (Windows), and where a node has none.

    Raises:
        UserError: The environment names another one.
    """
    given = os.environ.get(BACKEND, "")
    if given not in ("", "nccl", "gloo"):
        raise UserError(f"the variable {BACKEND}", got=given, expected="nccl or gloo")
    if given:
        return given
    return "nccl" if torch.distributed.is_nccl_available() or not torch.cuda.is_available() else "gloo"


def make_runtime(precision: Precision, *, cpu: bool = False, deadline_s: float = 0.0) -> Runtime:
    """Join the other processes, if any.

    Args:
        precision: Precision of the forward pass.
        cpu: Compute on the CPU even where there is a GPU.
        deadline_s: Longest time that one process may work while the others wait; they wait three times as long.

    Raises:
        UserError: The device cannot compute in that precision, there are more processes here than GPUs, or this process did
            not join the others.
    """
    if not cpu and torch.cuda.is_available():
        check_one_gpu_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    # Casting is ours: see `Runtime.autocast`. A process may sample until its deadline, or encode its part, while others wait.
    patience = max(timedelta(hours=2), 3 * timedelta(seconds=deadline_s))
    group = InitProcessGroupKwargs(backend=choose_backend(), timeout=patience)
    expected = int(os.environ.get("WORLD_SIZE") or 1)  # accelerate may write another number there
    cpu = cpu or (expected > 1 and not torch.cuda.is_available())  # accelerate joins CPUs only where that is asked for
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[group])
    check_all_joined(accelerator.num_processes, expected)
    heartbeat().join(accelerator.num_processes)
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
