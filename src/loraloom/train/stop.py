"""Ctrl-C and SIGTERM ask politely: the step is finished, a checkpoint is saved, the process ends with 0.

In: signals. Out: a flag that the loop reads. A second Ctrl-C does not wait.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class StopRequest:
    """Whether somebody asked this process to stop, and how."""

    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def listen_for_stop(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a flag while the block runs."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals can be caught in the main thread only; a caller's thread stops us by other means
        return

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.reason = name
        say(f"{name}: finishing this step, then saving (Ctrl-C again to stop at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
