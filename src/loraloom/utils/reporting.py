"""Lines to the user through the logger `loraloom`; progress bars and numbers through one reporter.

In: what a program around the library wants to hear (`reporting`). Out: `log` for lines, `reporter()` for the rest. Both are
read where something is to be said, so that no function passes them on. Without `reporting` lines go wherever Python's
`logging` is configured to send them, and bars and numbers go nowhere.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from loraloom.utils.progress import Progress

Say = Callable[[str], None]
"""Takes one line for the user."""

Bars = Callable[[str], Progress]
"""Makes the progress callback of a titled piece of work."""

Numbers = Callable[[int, dict[str, float]], None]
"""Takes finished steps and the numbers of a log line."""

WARNING = "warning: "

log = logging.getLogger("loraloom")
"""All lines: `log.info` for what is worth knowing, `log.warning` for what a user should look at."""
if log.level == logging.NOTSET:  # lines are for users: Python's default level would drop all but warnings
    log.setLevel(logging.INFO)


def _no_bar(title: str) -> Progress:
    return lambda done, total: None


def _no_numbers(done: int, numbers: dict[str, float]) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Where bars and numbers go.

    Attributes:
        bar: Makes the progress callback of a titled piece of work.
        numbers: Takes finished steps and the numbers of a log line.
    """

    bar: Bars = _no_bar
    numbers: Numbers = _no_numbers


class _Lines(logging.Handler):
    """Passes each line of the logger to a function, warnings with `warning: ` before them."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        # The innermost `reporting` of a thread takes its lines; those of helper threads go to all.
        if _lines.get() in {None, self}:
            self._say((WARNING if record.levelno >= logging.WARNING else "") + record.getMessage())


_lines: ContextVar[_Lines | None] = ContextVar("lines", default=None)
_reporter: ContextVar[Reporter] = ContextVar("reporter", default=Reporter())  # noqa: B039 - it is frozen
_muted: ContextVar[bool] = ContextVar("muted", default=False)

log.addFilter(lambda record: not _muted.get())


def reporter() -> Reporter:
    """Where bars and numbers of this thread go."""
    return _reporter.get()


def log_line(line: str) -> None:
    """Log a line that says itself whether it is a warning, as `warning: …`."""
    level = logging.WARNING if line.startswith(WARNING) else logging.INFO
    log.log(level, "%s", line.removeprefix(WARNING))


@contextmanager
def reporting(*, say: Say | None = None, bar: Bars | None = None, numbers: Numbers | None = None) -> Iterator[None]:
    """Hear what is said while the block runs; None leaves a channel as it is around the block.

    Args:
        say: Takes one line at a time, warnings with `warning: ` before them, instead of an outer `reporting`'s.
        bar: Makes a progress callback for a titled piece of work.
        numbers: Takes finished steps and the numbers of each log line.
    """
    outer = reporter()
    chosen = _reporter.set(Reporter(bar=bar or outer.bar, numbers=numbers or outer.numbers))
    handler = _Lines(say) if say else None
    lines = _lines.set(handler) if handler else None
    if handler:
        log.addHandler(handler)
    try:
        yield
    finally:
        if handler:
            log.removeHandler(handler)
        if lines:
            _lines.reset(lines)
        _reporter.reset(chosen)


@contextmanager
def muted() -> Iterator[None]:
    """Say nothing while the block runs: for processes beside the one that speaks to the user."""
    chosen, lines = _reporter.set(Reporter()), _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(lines)
        _reporter.reset(chosen)
