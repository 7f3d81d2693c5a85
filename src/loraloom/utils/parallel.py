"""Work shared out to several processes, with results in order and an end that Ctrl-C always reaches.

In: a function of a module, its arguments one by one. Out: its results in the order of the arguments.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TypeVar

from loraloom.utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3
"""Pieces that wait for each process, so that none is idle and memory is bounded."""
GRACE_S = 2.0
"""A process that has not ended by then is killed."""


def spread(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, *, chunk: int = 1
) -> Generator[Result, None, None]:
    """Yields `work(item)` of each item, in order.

    Args:
        work: A function that pickles; it is called in other processes when there is more than one worker.
        items: Its arguments, consumed lazily.
        workers: Processes; 1 works here.
        chunk: Items that a process does before it reports; so few in all are worked here, sooner than a process starts.

    Raises:
        UserError: A process was killed from outside.

    An exception of `work`, an interruption and a generator that is closed early end the processes at once: what they were
    writing must be whole or not at all.
    """
    waiting = iter(items)
    first = list(islice(waiting, chunk + 1))
    if workers <= 1 or len(first) <= chunk:
        yield from map(work, chain(first, waiting))
        return
    waiting = chain(first, waiting)
    # Spawned, not forked: a fork of a process with threads (torch, CUDA) may hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker)
    running: deque[Future[list[Result]]] = deque()

    def feed(pieces: int) -> None:
        for _ in range(pieces):
            piece = list(islice(waiting, chunk))
            if not piece:
                return
            with _uninterrupted():  # submitting starts processes, which inherit this
                running.append(pool.submit(each_of, work, piece))

    try:
        resource_tracker.ensure_running()  # or starting the first process would let interrupts through again
        feed(AHEAD * workers)
        while running:
            results = running.popleft().result()
            feed(1)
            yield from results
        pool.shutdown(wait=True)
    except BaseException as problem:
        with _uninterrupted():
            end_pool(pool)
        if isinstance(problem, BrokenProcessPool):  # from a result, or from handing out the next piece
            raise UserError(
                "a process that was doing part of the work has died",
                got="killed from outside, perhaps for want of memory",
                fix="run it again with more memory or fewer workers",
            ) from None
        raise


def each_of(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of several items, for a worker that gets them together."""
    return [work(item) for item in items]


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even when it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Interrupts wait until the block ends, where the system can do that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_pool(pool: ProcessPoolExecutor) -> None:
    """Stop all processes of a pool at once, whatever they are doing.

    The standard library has no way to say it before Python 3.14 (`terminate_workers`).
    """
    processes = list((getattr(pool, "_processes", None) or {}).values())
    manager = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
    if (
        manager is not None
    ):  # otherwise the interpreter waits for it at exit, where one more Ctrl-C would print a traceback
        manager.join(GRACE_S)
