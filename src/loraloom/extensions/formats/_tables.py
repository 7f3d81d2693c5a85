"""Read tables of captions: JSON lines, and CSV with any usual separator.

In: the text of `metadata.jsonl` or `metadata.csv`. Out: one `Row` per record: its first line, and its values or the reason
why it cannot be read. Rows are the lines of the format: U+2028 and other line breaks of Python are part of a text.
"""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json

_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"sep=([,;\t|])\r?\n?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its first line, counted from 1, and its values or the reason why it cannot be read."""

    line: int
    values: Mapping[str, Any]
    problem: str | None = None


def rows_of_jsonl(name: str, text: str) -> list[Row]:
    """One row per line that is not blank.

    Raises:
        UserError: No line can be read; names the reason for the first one.
    """
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(" \t\r"):
            continue
        try:
            value: Any = parse_json(line, f"line {number}", constants=True, unique_keys=True)
        except UserError as error:
            rows.append(Row(number, {}, error.what if error.got is None else f"{error.what}: {error.got}"))
            continue
        if isinstance(value, dict):
            rows.append(Row(number, cast("dict[str, Any]", value)))
        else:
            rows.append(Row(number, {}, f"line {number} is not a JSON object"))
    if rows and all(row.problem for row in rows):
        fix = "write one object a line" if "JSON" in (rows[0].problem or "") else "repair that line"
        if text.lstrip().startswith("["):
            fix = "it looks like one JSON list: write one object a line, without the list's brackets and commas"
        raise UserError(f"no line of {name} can be read", got=rows[0].problem, fix=fix)
    return rows


def rows_of_csv(name: str, text: str, column: str) -> list[Row]:
    """One row per record after the header; the separator is the one that gives the header the column `column`.

    Raises:
        UserError: A quote is never closed, or the text is not CSV; no row has the number of cells of the header.
    """
    skipped = 0
    if marked := _SEPARATOR_LINE.match(text):  # the first line that Excel writes
        text, separator, skipped = text[marked.end() :], marked[1], 1
    else:
        separator = _separator(text, column)
    # Lines of the format, unchanged: `str.splitlines` would cut texts at U+2028.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    rows: list[Row] = []
    try:
        while True:
            begins = skipped + reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            else:
                rows.append(_row(begins, header, cells, separator))
    except csv.Error as error:
        line = skipped + reader.line_num
        raise UserError(f"{name} is not CSV", got=f"line {line}: {error}", fix="check its quotes") from None
    if header is not None and (twice := [cell for cell in header if cell and header.count(cell) > 1]):
        raise UserError(f"{name} has a column twice", got=twice[0], fix="rename one: only one of them could be read")
    if not rows:
        raise UserError(
            f"{name} has no rows below its header" if header else f"{name} is empty", fix="fill it, or remove it"
        )
    if all(row.problem for row in rows):
        reason, _, fix = (rows[0].problem or "").partition(": ")
        raise UserError(f"no row of {name} can be read", got=reason, fix=fix)
    return rows


def _row(line: int, header: list[str], cells: list[str], separator: str) -> Row:
    if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
        cells = cells[: len(header)]  # empty cells at the end of a line
    if len(cells) == len(header):
        return Row(line, dict(zip(header, cells, strict=True)))
    fix = f"put texts that hold {_shown(separator)} into double quotes"
    if len(cells) < len(header):
        fix = "give it all its cells"
    other = [mark for mark in _SEPARATORS if mark != separator and len(cells) == 1 < len(cells[0].split(mark))]
    if other:
        fix = f"separate its cells by {_shown(separator)}, as in the header, and not by {_shown(other[0])}"
    numbers = f"{counted(len(cells), 'cell')}, the header has {len(header)}"
    named = dict(zip(header, cells, strict=False))
    return Row(line, named, f"line {line} has {numbers}: {fix}")


def _shown(separator: str) -> str:
    return "a tab" if separator == "\t" else repr(separator)


def _separator(text: str, column: str) -> str:
    """The separator that gives the first record a cell `column`; else its most frequent one, else a comma."""
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    for separator in _SEPARATORS:
        try:
            cells = next(csv.reader([first], delimiter=separator))
        except (csv.Error, StopIteration):
            continue
        if column.casefold() in [cell.strip().casefold() for cell in cells]:
            return separator
    return max(_SEPARATORS, key=first.count)
