"""Lines reach the user once, with their level, from wherever they are said; beside the main process nothing is said."""

import logging
import threading

import pytest

from loraloom.utils.reporting import log, log_line, muted, reporter, reporting


def test_a_line_reaches_the_innermost_listener_once() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with reporting(say=outer.append):
        log.info("one")
        with reporting(say=inner.append):
            log.info("two")
        with reporting(bar=None):
            log.info("three")
    log.info("four")
    assert outer == ["one", "three"]
    assert inner == ["two"]


@pytest.mark.parametrize("line", ["warning: 3 of 5 images", "note: 100% %s of {it}", "plain"])
def test_a_line_arrives_as_it_was_said(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """Libraries' callbacks say `warning: …` themselves; the logger keeps that as a level, the listener sees the text."""
    heard: list[str] = []
    with reporting(say=heard.append):
        log_line(line)
    assert heard == [line]
    (record,) = caplog.records
    assert record.name == "loraloom"
    assert (record.levelno == logging.WARNING) == line.startswith("warning: ")
    assert record.getMessage() == line.removeprefix("warning: ")


def test_lines_of_helper_threads_are_not_lost() -> None:
    """A new thread starts with an empty context."""
    heard: list[str] = []
    with reporting(say=heard.append):
        thread = threading.Thread(target=log.info, args=("from a thread",))
        thread.start()
        thread.join()
    assert heard == ["from a thread"]


def test_bars_and_numbers_go_to_the_reporter_of_the_block_and_nowhere_after_it() -> None:
    heard: list[object] = []

    def bar(title: str):
        return lambda done, total: heard.append((title, done, total))

    with reporting(bar=bar), reporting(numbers=lambda done, numbers: heard.append((done, numbers))):
        reporter().bar("steps")(1, 2)
        reporter().numbers(1, {"loss": 0.5})
    reporter().bar("steps")(2, 2)
    reporter().numbers(2, {"loss": 0.4})
    assert heard == [("steps", 1, 2), (1, {"loss": 0.5})]


def test_a_muted_process_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[object] = []
    with reporting(say=heard.append, numbers=lambda done, numbers: heard.append(done)), muted():
        log.warning("a line")
        reporter().numbers(1, {})
    assert heard == []
    assert not caplog.records


def test_an_error_of_the_listener_ends_the_work() -> None:
    """Such as `BrokenPipeError` of a closed terminal: `logging` would print it and continue."""

    def broken(text: str) -> None:
        raise BrokenPipeError

    with reporting(say=broken), pytest.raises(BrokenPipeError):
        log.info("a line")
    log.info("nobody listens any more")
