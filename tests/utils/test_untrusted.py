"""Files that others wrote are read whole, in bounds, or refused with their name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from loraloom.utils import untrusted
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import MAX_DEPTH, library_errors, parse_json, parse_record, read_bytes, read_lines


@dataclass(frozen=True)
class Row:
    name: str
    size: Annotated[int, Field(ge=1)]
    crop: tuple[int, int]


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_record(Row, text, "row 3")
    return str(caught.value)


def test_a_small_file_takes_no_memory_that_its_limit_would_allow(tmp_path: Path) -> None:
    """A table of ten lines took two gigabytes of address space, and was refused where that is limited."""
    import tracemalloc

    (tmp_path / "a").write_bytes(b"x" * 10)
    tracemalloc.start()
    assert read_bytes(tmp_path / "a", "a file", max_bytes=1 << 31) == b"x" * 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    with pytest.raises(UserError, match="too large"):
        read_bytes(tmp_path / "a", "a file", max_bytes=9)


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\x0c", "\r"])
def test_a_line_ends_with_a_line_feed_only_and_keeps_its_number(end: str, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_bytes(f"\ufeffone{end}more\n\n  \nfour\r\nfive".encode())
    assert list(read_lines(file, "the table")) == [(1, f"one{end}more"), (4, "four\r"), (5, "five")]


def test_too_long_a_line_and_too_many_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows"
    file.write_bytes(b"a\n" + b"x" * (2 << 20))
    with pytest.raises(UserError, match="the table line 2 is too long"):
        list(read_lines(file, "the table"))
    monkeypatch.setattr(untrusted, "MAX_LINES", 3)
    file.write_bytes(b"a\n" * 3)
    assert len(list(read_lines(file, "the table"))) == 3
    file.write_bytes(b"a\n" * 4)
    with pytest.raises(UserError, match="too many lines"):
        list(read_lines(file, "the table"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "a", "size": 1}', "row 3 has no 'crop'"),
        ('{"name": "a", "size": 1, "crop": [1]}', "row 3: crop has too few values: got [1]"),
        ('{"name": "a", "size": 1, "crop": [1, 2, 3]}', "row 3: crop"),
        ('{"name": "a", "size": 1, "crop": [1, "2"]}', "row 3: crop.1: got '2', expected integer"),
        ('{"name": "a", "size": true, "crop": [1, 2]}', "row 3: size: got True"),
        ('{"name": "a", "size": 0, "crop": [1, 2]}', "expected greater than or equal to 1"),
        ('{"nmae": "a", "size": 1, "crop": [1, 2]}', "did you mean 'name'"),
        ('{"name": 3, "size": null, "crop": 5}', "(and 2 more)"),
    ],
)
def test_a_record_names_the_first_field_that_does_not_fit(text: str, told: str) -> None:
    assert told in refusal(text)


@given(depth=st.integers(1, 3 * MAX_DEPTH), quoted=st.booleans())
def test_depth_counts_brackets_outside_of_texts(depth: int, quoted: bool) -> None:
    brackets = "[" * depth + "]" * depth
    text = f'["{brackets}"]' if quoted else brackets
    if quoted or depth <= MAX_DEPTH:
        assert isinstance(parse_json(text, "it"), list)
    else:
        with pytest.raises(UserError, match="nested too deeply"):
            parse_json(text, "it")


def test_a_panic_of_a_library_becomes_an_error_and_an_interrupt_does_not() -> None:
    """A library in Rust panics with a `BaseException`, which ended in a traceback."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(UserError, match="the tokenizer cannot be read"), library_errors("the tokenizer", "x"):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), library_errors("the tokenizer", "x"):
        raise KeyboardInterrupt
