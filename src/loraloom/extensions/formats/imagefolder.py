"""Pictures with a table of captions, as Hugging Face's `imagefolder` has it: `metadata.jsonl` or `metadata.csv`.

In: a folder with such a file in it or in sub-folders; the column `file_name` holds paths relative to the file, the
option `caption_column` names the column of captions, other columns are passed over. Out: one source item a row; rows
without a picture, pictures without a row and rows that cannot be read are reported.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from loraloom.contracts import Format, SourceItem
from loraloom.errors import UserError, did_you_mean
from loraloom.extensions.formats._common import Entry, count, sorted_unique, walk
from loraloom.names import path_problem

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMN = "text"


class ImageFolder:
    """The `imagefolder` layout."""

    name = "imagefolder"
    expects = "metadata.jsonl or metadata.csv with a column file_name and a column of captions (--caption-column)"
    priority = 30

    def sniff(self, folder: Path, options: Mapping[str, str]) -> str | None:
        """Which metadata files there are."""
        entries = walk(folder)
        files = _metadata(entries)
        if not files:
            return None
        pictures = sum(entry.is_picture for entry in entries)
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        return f"{files[0].name}{more} beside {count(pictures, 'picture')}"

    def read(self, folder: Path, options: Mapping[str, str]) -> Iterator[SourceItem]:
        """All rows, and all pictures that no row names."""
        column = options.get("caption_column", CAPTION_COLUMN)
        entries = walk(folder)
        files = _metadata(entries)
        if not files:
            fix = "add one, or choose another --format"
            raise UserError(f"{folder} has no metadata file", expected=self.expects, fix=fix)
        by_name = {entry.name: entry for entry in entries}
        items: list[SourceItem] = []
        named: set[str] = set()
        for file in files:
            for row in _rows(file, column):
                items.append(_item(file, row, column, by_name, named))
        items += [
            SourceItem(entry.stem, entry.path, None, entry.problem or "no row of a metadata file names it")
            for entry in entries
            if entry.is_picture and entry.name not in named
        ]
        yield from sorted_unique(items)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: its line number from 1, its values, or why it cannot be read."""

    line: int
    values: Mapping[str, Any]
    problem: str | None = None


def _metadata(entries: list[Entry]) -> list[Entry]:
    """The metadata files; of two in one folder the `.jsonl`."""
    chosen: dict[PurePosixPath, Entry] = {}
    for name in METADATA_NAMES:
        for entry in entries:
            path = PurePosixPath(entry.name)
            if path.name == name and entry.problem is None:
                chosen.setdefault(path.parent, entry)
    return sorted(chosen.values(), key=lambda entry: entry.name)


def _rows(file: Entry, column: str) -> list[_Row]:
    """All rows of one metadata file.

    Raises:
        UserError: The file is not UTF-8, has no rows, or lacks a column.
    """
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is not UTF-8", got=f"byte {error.start}", fix="save it as UTF-8") from error
    rows = _rows_of_jsonl(text) if file.suffix == ".jsonl" else _rows_of_csv(file.name, text)
    columns = sorted({str(key) for row in rows for key in row.values})
    for wanted, flag in ((FILE_COLUMN, None), (column, "--caption-column")):
        if wanted not in columns:
            hint = did_you_mean(wanted, columns) if columns else "every row needs one"
            raise UserError(
                f"{file.name} has no column {wanted!r}",
                got=f"columns {', '.join(columns) or 'none'}",
                fix=f"{hint}  Name the captions' column with {flag}" if flag else hint,
            )
    return rows


def _rows_of_jsonl(text: str) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            rows.append(_Row(number, {}, f"line {number} is not JSON: {error}"))
            continue
        if isinstance(value, dict):
            rows.append(_Row(number, cast("dict[str, Any]", value)))
        else:
            rows.append(_Row(number, {}, f"line {number} is not a JSON object"))
    return rows


def _rows_of_csv(name: str, text: str) -> list[_Row]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    rows: list[_Row] = []
    try:
        for values in reader:
            rows.append(_Row(reader.line_num, {str(key): value for key, value in values.items()}))
    except csv.Error as error:
        raise UserError(f"{name} is not CSV", got=f"line {reader.line_num}: {error}", fix="check its quotes") from error
    return rows


def _item(file: Entry, row: _Row, column: str, by_name: Mapping[str, Entry], named: set[str]) -> SourceItem:
    """The source item of one row; notes in `named` which file it is about."""
    here = f"{file.name}:{row.line}"
    if row.problem:
        return SourceItem(here, file.path, None, row.problem)
    file_name = row.values.get(FILE_COLUMN)
    if not isinstance(file_name, str):
        return SourceItem(here, file.path, None, f"line {row.line} has no file_name")
    if problem := path_problem(file_name):
        return SourceItem(here, file.path, None, f"line {row.line}: {file_name!r} {problem}")
    name = str(PurePosixPath(file.name).parent / file_name)
    entry = by_name.get(name)
    if entry is None:
        return SourceItem(here, file.path, None, f"line {row.line}: there is no file {file_name!r}")
    if name in named:
        return SourceItem(entry.stem, entry.path, None, f"named a second time in line {row.line} of {file.name}")
    named.add(name)
    if entry.problem or not entry.is_picture:
        return SourceItem(entry.stem, entry.path, None, entry.problem or "not a picture by its suffix")
    caption = row.values.get(column)
    if caption is not None and not isinstance(caption, str):
        kind = type(caption).__name__
        return SourceItem(entry.stem, entry.path, None, f"line {row.line}: its {column!r} is a {kind}, not a text")
    return SourceItem(entry.stem, entry.path, caption)


FORMAT: Format = ImageFolder()
