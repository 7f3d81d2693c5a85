"""Work in several processes: results in order, mistakes as they are, and an end when somebody wants one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from operator import neg
from pathlib import Path

import pytest

from loraloom.utils.errors import UserError
from loraloom.utils.parallel import spread


def picky(number: int) -> int:
    if number == 5:
        raise UserError("five", got=number)
    return number


@pytest.mark.parametrize(("workers", "chunk"), [(0, 1), (1, 3), (2, 1), (2, 7)])
def test_results_come_in_the_order_of_the_items(workers: int, chunk: int) -> None:
    assert list(spread(neg, iter(range(50)), workers, chunk=chunk)) == [-number for number in range(50)]


def test_nothing_to_do_is_done() -> None:
    assert list(spread(neg, [], 2)) == []


def test_a_mistake_of_the_work_is_told_as_it_was() -> None:
    results = spread(picky, range(1000), 2, chunk=2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="five: got 5"):
        next(results)


def die(number: int) -> int:
    if number == 7:
        time.sleep(0.5)  # what came before is done by now
        os._exit(9)
    return number


def test_a_process_that_dies_is_told_without_a_traceback_of_the_pool() -> None:
    with pytest.raises(UserError, match="has died"):
        list(spread(die, range(40), 2, chunk=2))


def test_a_process_that_died_while_results_were_read_is_told_the_same_way() -> None:
    """The pool is then found broken when the next piece is handed out, before any result says so."""
    results = spread(die, range(40), 2, chunk=2)
    assert next(results) == 0
    until = time.monotonic() + 60
    while multiprocessing.active_children():
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(UserError, match="has died"):
        list(results)


def test_few_items_are_worked_here() -> None:
    assert set(spread(own_process, range(4), 2, chunk=4)) == {os.getpid()}
    assert os.getpid() not in set(spread(own_process, range(5), 2, chunk=4))


def own_process(number: int) -> int:
    return os.getpid()


def test_who_has_seen_enough_does_not_wait_for_the_rest() -> None:
    began = time.monotonic()
    with closing(spread(time.sleep, [0.0, *[300.0] * 9], 2)) as results:
        assert next(results) is None
    assert time.monotonic() - began < 60


@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal are others there")
@pytest.mark.parametrize("pause_s", [0.02, 0.5])
def test_two_interrupts_end_a_command_with_two_processes(tmp_path: Path, pause_s: float) -> None:
    """The first one once waited for the processes and the second for ever."""
    command = ["plan", "synthesise", "--out", str(tmp_path), "--count", "5000", "--workers", "2"]
    # A shell that runs these tests in its background has told them, and so their children, to ignore the signal.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heard}; from loraloom.cli.app import main; main()", *command],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not any((tmp_path / "truth").glob("*.json")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        began = time.monotonic()
        for _ in range(2):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause_s)
        _, said = process.communicate(timeout=10)
        assert time.monotonic() - began < 10
        assert process.returncode in (130, -signal.SIGINT)  # the second may come when Python is already on its way out
        assert "Traceback" not in said
        count = len(list(tmp_path.rglob("*")))
        time.sleep(0.5)
        assert len(list(tmp_path.rglob("*"))) == count  # nobody goes on drawing
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
