"""Progress of long work on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere.

In: (done, all) after each item. Out: text on stderr.
"""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

LINE_EVERY_S = 10.0


@contextmanager
def progress_bar(title: str) -> Generator[Callable[[int, int], None]]:
    """Yields what is called after each item. The rate is the mean since the first call."""
    began = last = time.monotonic()
    first: int | None = None

    def rate(done: int) -> str:
        seconds = time.monotonic() - began
        return f"{(done - (first or 0)) / seconds:.1f}/s" if seconds > 0.5 else ""

    if not sys.stderr.isatty():

        def line(done: int, total: int) -> None:
            nonlocal last, first
            first = done if first is None else first
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                sys.stderr.write(f"{title}: {done} of {total}, {rate(done)}\n")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    display = Progress(
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with display:
        task = display.add_task(title, total=None, rate="")

        def move(done: int, total: int) -> None:
            nonlocal first
            first = done if first is None else first
            display.update(task, completed=done, total=total, rate=rate(done))

        yield move
