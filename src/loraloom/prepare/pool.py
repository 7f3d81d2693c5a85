"""A pool of processes for files that somebody else made: one bad file never ends the work on the others.

In: tasks, one a file, and a function that works on one. Out: results as they are finished, in no order. Work is done in
processes with a bounded number of tasks on the way; one worker means this process. A file that kills its worker, or that
holds it for minutes, gives a refusal, and the others are done all the same.
"""

import multiprocessing
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

from loraloom.utils.errors import UserError
from loraloom.utils.parallel import each_of, end_pool, start_worker
from loraloom.utils.processes import usable_cores

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT_PER_WORKER = 4
MOST_TOGETHER = 16
"""Files that go to a worker at once where there are thousands: sending one costs 1.3 ms, a third of a small image's work."""
SHARES_PER_WORKER = 64
"""Fewest times that a worker gets files, so that all end at about the same time."""
FEW = 8
"""Number of files up to which one process is faster than starting several."""
TIME_LIMIT_S = 300.0
"""For one file. A JPEG of 50 megapixels and 39 scans took 5 s."""
_CRASHED = "the decoder crashed on it"


def work_on_files(
    work: Callable[[T], R],
    refuse: Callable[[T, str], R],
    tasks: Sequence[T],
    num_workers: int,
    time_limit_s: float = TIME_LIMIT_S,
) -> Generator[R, None, None]:
    """The results of all tasks, each as soon as it is finished.

    Args:
        work: Works on one task in another process: it, the tasks and the results can be pickled.
        refuse: Makes the result of a task that was given up, with the reason for the user.
        tasks: What to do.
        num_workers: Processes; 0 is one a core. One, or few tasks, are done in this process.
        time_limit_s: A process that needs longer for one file is ended, and the file refused. In this process only the
            limits of pixels and of scans hold.

    Raises:
        UserError: Worker processes cannot be started from this program.
    """
    workers = min(num_workers or usable_cores(), len(tasks))
    if workers <= 1 or len(tasks) <= FEW:
        yield from map(work, tasks)
        return
    together = max(1, min(MOST_TOGETHER, len(tasks) // (SHARES_PER_WORKER * workers)))
    waiting, any_finished = (tasks[at : at + together] for at in range(0, len(tasks), together)), False
    while True:
        lost, finished = yield from _run_pool(work, waiting, workers, time_limit_s)
        any_finished |= finished
        if not lost:
            return
        # A worker died or was ended: the tasks that were on the way are tried one at a time to learn which is to blame.
        refused: list[tuple[T, str]] = []
        for task, _ in lost:
            lost_again, finished = yield from _run_pool(work, iter([[task]]), 1, time_limit_s)
            refused += lost_again
            any_finished |= finished
        if not any_finished and sum(reason == _CRASHED for _, reason in refused) > 1:
            raise UserError(
                "worker processes end as soon as they start",
                fix='call prepare() below `if __name__ == "__main__":`, or use --num-workers 1',
            )
        yield from (refuse(task, reason) for task, reason in refused)


def _run_pool(
    work: Callable[[T], R], shares: Iterator[Sequence[T]], workers: int, time_limit_s: float
) -> Generator[R, None, tuple[list[tuple[T, str]], bool]]:
    """Results of a pool of processes; returns the tasks that were lost when a worker died or had to be ended, with the
    reason, and whether any was finished."""
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=start_worker)
    on_the_way: dict[Future[list[R]], Sequence[T]] = {}
    lost: list[tuple[T, str]] = []
    any_finished = False
    try:
        while True:
            for share in islice(shares, IN_FLIGHT_PER_WORKER * workers - len(on_the_way)):
                try:
                    on_the_way[pool.submit(each_of, work, share)] = share
                except BrokenProcessPool:
                    lost += [(task, _CRASHED) for task in share]
                    break
            if not on_the_way:
                break
            finished = wait(on_the_way, timeout=time_limit_s, return_when=FIRST_COMPLETED).done
            if not finished:  # so every process is at one share for longer than that
                reason = f"it takes longer than {time_limit_s:g} s to decode"
                lost += [(task, reason) for share in on_the_way.values() for task in share]
                end_pool(pool)
                break
            for future in finished:
                share = on_the_way.pop(future)
                try:
                    results = future.result()
                except BrokenProcessPool:
                    lost += [(task, _CRASHED) for task in share]
                    continue
                any_finished = True
                yield from results
            if lost:
                shares = iter(())
    except BaseException:
        end_pool(pool)  # a file is written whole or not at all, so nobody waits for what is not wanted any more
        raise
    pool.shutdown(wait=True, cancel_futures=True)
    return lost, any_finished


def _context() -> BaseContext:
    """How processes are started: by fork where this process is alone with itself, else by a clean server or anew.

    Forking copies locks that other threads hold, and what a CUDA or BLAS library thinks of its threads.
    """
    if sys.platform == "linux":
        alone = threading.active_count() == 1 and "torch" not in sys.modules
        return multiprocessing.get_context("fork" if alone else "forkserver")
    return multiprocessing.get_context("spawn")
