"""Show progress: bars with rate and remaining time on a terminal, plain lines elsewhere.

In: progress callbacks and numbers. Out: text on stderr (bars) and stdout (what is worth keeping).
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loraloom.utils.errors import UserError

if TYPE_CHECKING:
    from rich.progress import TaskID


Progress = Callable[[int, int], None]
"""Called with (done, total)."""
_NUMBER = re.compile(r"[-+]?\d[\d.,x]*+(?![\w-])")


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # rich would send lines of stdout to the terminal even where stdout is a file or a pipe
        redirect_stdout=sys.stdout.isatty(),
    )

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
    """Columns aligned by blanks; numbers to the right, by the look of the first row. `10_dog` is a name, no number."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    right = [bool(rows) and _NUMBER.match(rows[0][column]) is not None for column in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), *map(line, rows)])
