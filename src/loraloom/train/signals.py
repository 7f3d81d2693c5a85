"""Ctrl-C, SIGTERM and a deadline ask politely: the step is finished, a checkpoint is saved, the process ends with 0.

In: signals and the time. Out: a flag that the loop and the caches read. A second Ctrl-C does not wait.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class StoppedError(Exception):
    """Somebody asked to stop before the first step."""


@dataclass(slots=True)
class StopRequest:
    """Whether this process is to stop, and why.

    Attributes:
        signal_name: Name of the signal that asked, or empty.
        deadline: `time.monotonic` after which the run stops by itself.
    """

    signal_name: str = ""
    deadline: float = math.inf

    @property
    def reason(self) -> str:
        """Empty while nothing asks."""
        return self.signal_name or ("the end of its time" if time.monotonic() > self.deadline else "")

    def __bool__(self) -> bool:
        return bool(self.reason)

    def check(self) -> None:
        """Raise `StoppedError` when a stop was asked for: for work that has nothing to save."""
        if self.reason:
            raise StoppedError


@contextmanager
def listen_for_stop(deadline: float = math.inf) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a flag while the block runs; after `deadline` it stands by itself."""
    request = StopRequest(deadline=deadline)
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals can be caught in the main thread only; a caller's thread stops us by other means
        return

    def handle(number: int, frame: FrameType | None) -> None:
        # Nothing but the flag: a print in a handler can meet a print that it interrupted.
        if request.signal_name and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
