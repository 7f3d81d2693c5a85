"""What a person sees while work goes on: bars with rate and time left on a terminal, plain lines elsewhere.

In: progress callbacks and numbers. Out: text on stderr (bars) and stdout (what is worth keeping).
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loraloom.contracts import Progress
from loraloom.errors import UserError
from loraloom.folders import COMMAND

if TYPE_CHECKING:
    from rich.progress import TaskID

    from loraloom.config.run import RunConfig


@contextmanager
def bars() -> Iterator[Callable[[str], Progress]]:
    """Makes a progress callback for each titled piece of work; one live display for all of them.

    Where stderr is no terminal, a line is written now and then instead.
    """
    if not sys.stderr.isatty():
        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    display = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        # rich would send lines of stdout to the terminal even where stdout is a file or a pipe
        redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip

    def make(title: str) -> Callable[[int, int], None]:
        task: TaskID | None = None
        began, first = 0.0, 0

        def advance(done: int, total: int) -> None:
            nonlocal task, began, first
            if task is None:
                task, began, first = display.add_task(title, total=total, rate=""), time.monotonic(), done
            seconds = time.monotonic() - began
            rate = f"{(done - first) / seconds:.1f}/s" if seconds > 0 and done > first else ""
            display.update(task, completed=done, total=total, rate=rate)
            if done >= total:
                display.remove_task(task)
                task = None

        return advance

    with display:
        yield make


def lines(title: str) -> Progress:
    """A line every ten seconds at most."""
    last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            sys.stderr.write(f"{title}: {done} of {total}\n")

    return advance


def seconds_of(text: str) -> float:
    """Seconds in `45m`, `2h`, `90s` or a plain number of seconds.

    Raises:
        UserError: Not a time.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not match or not float(match[1]):
        raise UserError("not a time", got=text, expected="such as 45m or 2h")
    return float(match[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[match[2]]


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns aligned by blanks; numbers to the right, by the look of the first row."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    right = [bool(rows) and rows[0][column][:1].isdigit() for column in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), *map(line, rows)])


def train_on_terminal(settings: "RunConfig", *, cpu: bool = False) -> None:
    """`loraloom train`: run it, show a bar and log lines, say what came out and what to do next."""
    from loraloom.train.run import train

    max_steps = settings.train.max_steps

    def report(done: int, numbers: dict[str, float]) -> None:
        left = (max_steps - done) / max(numbers["steps_per_second"], 1e-9)
        held_out = f"validation {numbers['validation_loss']:.4f}  " if "validation_loss" in numbers else ""
        say(
            f"step {done}/{max_steps}  loss {numbers['loss']:.4f}  {held_out}lr {numbers['learning_rate']:.2e}  "
            f"norm {numbers['grad_norm']:.3f}  {numbers['images_per_second']:.1f} images/s  "
            f"{numbers['peak_memory_mib'] / 1024:.2f} GiB  {duration(left)} left"
        )

    def say(text: str) -> None:
        print(text, flush=True)

    with bars() as bar:
        result = train(settings, say=say, report=report, progress=bar, cpu=cpu)
    if result.is_main and result.adapter is not None:
        say(f"done in {duration(result.finished.seconds)}: {result.adapter}")
        if settings.samples.enabled:
            say(f"samples: {result.folder / 'samples' / 'sheet.png'}")
        say(f"for other programs: {result.folder / 'exports'}")
        say(f'next: {COMMAND} generate --adapter {result.folder} "a prompt"')
