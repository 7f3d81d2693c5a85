"""`--num-processes`: how many ranks or worker processes, and the arguments of the ranks."""

import os
import re
from collections.abc import Sequence
from typing import Any

from loraloom.utils.errors import UserError

MAX_PROCESSES = 1024


def count_processes(wish: str | None, *, cpu: bool) -> int:
    """How many processes `--num-processes` asks for; 1 without it.

    Raises:
        UserError: Neither a number nor `auto`, or a launcher has started the processes already.
    """
    if wish is None:
        return 1
    launched = os.environ.get("WORLD_SIZE")
    if launched is not None:
        raise UserError(
            "--num-processes starts processes, but a launcher has started them already",
            got=f"--num-processes {wish} in a process group of {launched}",
            fix="leave --num-processes out under torchrun and accelerate launch",
        )
    if wish == "auto":
        if cpu:
            raise UserError("--num-processes auto counts GPUs, but --cpu is given", fix="give a number, such as 2")
        import torch

        count = torch.cuda.device_count()
        print(
            f"--num-processes auto: {count} GPUs" if count else "--num-processes auto: no GPU, one process", flush=True
        )
        return max(1, count)
    return _number(wish)


def count_workers(wish: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The given flags of `prepare` with `--num-processes` as the number of its workers; `auto` is one a core.

    Raises:
        UserError: Neither a number nor `auto`, or the number is given twice.
    """
    if wish is None:
        return given
    if "num_workers" in given:
        raise UserError("--num-processes and --num-workers are the same here", fix="give one of them")
    return {**given, "num_workers": 0 if wish == "auto" else _number(wish)}


def _number(wish: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", wish) or not 1 <= int(wish) <= MAX_PROCESSES:
        raise UserError("--num-processes", got=wish, expected=f"auto, or a number from 1 to {MAX_PROCESSES:,}")
    return int(wish)


def without(arguments: Sequence[str], *options: str) -> list[str]:
    """Arguments without some options, each of which has a value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            kept.append(argument)
    return kept
