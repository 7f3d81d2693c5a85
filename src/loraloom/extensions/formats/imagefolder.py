"""Images with a table of captions, as in Hugging Face's `imagefolder`: `metadata.jsonl` or `metadata.csv`.

In: a folder with such a file in it or in sub-folders; the column `file_name` has paths relative to the file, the option
`caption_column` names the column of captions, `encoding` the encoding of the file; other columns are ignored. Out: one
source item per row. Rows without an image, images without a row and rows that cannot be read are reported.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from loraloom.extensions.formats._common import ByName, decode_text, listed, more_captions, sorted_unique
from loraloom.extensions.formats._tables import Row, rows_of_csv, rows_of_jsonl
from loraloom.protocols.contracts import FormatContract, SaveImage
from loraloom.protocols.data import PackedImage, SourceItem, WritableFormat
from loraloom.protocols.settings import CaptionColumn
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.listing import Entry, near_table_name, walk
from loraloom.utils.safe_paths import path_problem, safe_name
from loraloom.utils.untrusted import MAX_TABLE_BYTES, read_bytes

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMN = "text"
_USUAL_FILE_COLUMNS = (
    "image",
    "images",
    "img",
    "file",
    "filename",
    "path",
    "filepath",
    "image_path",
    "image_file",
    "name",
)
_USUAL_CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "prompts", "description", "label", "title", "tags")
_BACKSLASHES = r"its row has \ between folders: read as /"
_OTHER_CASE = "the name in its row differs in upper and lower case"


class ImageFolder:
    """The `imagefolder` layout."""

    name = "imagefolder"
    settings = CaptionColumn
    expects = "metadata.jsonl or metadata.csv with a column file_name and a column of captions (--caption-column)"
    priority = 30

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The metadata files that were found."""
        entries = walk(folder)
        files, _ = _metadata(entries)
        if not files:
            return None
        images = sum(entry.is_image for entry in entries)
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        return f"{files[0].name}{more} beside {counted(images, 'image')}"

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All rows, and all images that no row names."""
        column = options.get("caption_column", CAPTION_COLUMN)
        entries = listed(folder)
        files, second = _metadata(entries)
        if not files:
            near = [(entry.name, hint) for entry in entries if (hint := near_table_name(entry.name))]
            fix = f"{near[0][0]}: {near[0][1]}" if near else "add one, or choose another --format"
            raise UserError(f"{folder} has no metadata file", expected=self.expects, fix=fix)
        work = _Work(column, ByName((entry.name, entry) for entry in entries), _by_last_part(entries))
        items = [work.item(file, row) for file in files for row in _rows(file, column, options.get("encoding", ""))]
        items += [
            SourceItem(
                id=entry.stem,
                image=entry.path,
                caption=None,
                problem=entry.problem or "no row of a metadata file names it",
            )
            for entry in entries
            if entry.is_image and entry.name not in work.named
        ]
        items += [
            SourceItem(id=entry.name, image=entry.path, caption=None, problem=problem) for entry, problem in second
        ]
        yield from sorted_unique(items)

    def write(self, folder: Path, images: Iterator[PackedImage], shard_size: int) -> list[str]:
        """Images in a folder for each split with its `metadata.jsonl`; see `WritableFormat`."""
        renamed = 0
        for image in images:
            name = f"{safe_name(image.id)}.png"
            renamed += name != f"{image.id}.png"
            path = folder / image.split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.data)
            row = {FILE_COLUMN: name, CAPTION_COLUMN: image.captions[0]}
            if image.captions[1:]:
                row |= {"captions": list(image.captions)}
            with (folder / image.split / METADATA_NAMES[0]).open("a", encoding="utf-8", newline="\n") as table:
                table.write(json.dumps(row, ensure_ascii=False) + "\n")
        return [f"{counted(renamed, 'id')} written with other letters, which every system allows"] if renamed else []


def _metadata(entries: list[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    """The metadata files (of two in one folder the `.jsonl`), and the others with the reason why they are not read."""
    chosen: dict[PurePosixPath, Entry] = {}
    second: list[tuple[Entry, str]] = []
    for name in METADATA_NAMES:
        for entry in entries:
            path = PurePosixPath(entry.name)
            if path.name.casefold() != name or entry.problem is not None:
                continue
            if chosen.setdefault(path.parent, entry) is not entry:
                second.append((entry, f"a second table: {PurePosixPath(chosen[path.parent].name).name} is read"))
    return sorted(chosen.values(), key=lambda entry: entry.name), second


def _rows(file: Entry, column: str, encoding: str) -> list[Row]:
    """All rows of one metadata file.

    Raises:
        UserError: The file has another encoding, no row can be read, or a column is missing.
    """
    text, problem = decode_text(read_bytes(file.path, file.name, max_bytes=MAX_TABLE_BYTES), encoding)
    if text is None:
        reason, _, fix = problem.partition(": ")
        raise UserError(f"{file.name} {reason}", fix=fix)
    if "\0" in text:
        raise UserError(f"{file.name} is not a text: it has NUL bytes", fix="if it is UTF-16, add --encoding utf-16-le")
    rows = rows_of_jsonl(file.name, text) if file.suffix == ".jsonl" else rows_of_csv(file.name, text, FILE_COLUMN)
    for wanted in (FILE_COLUMN, column):
        if not any(_key(row.values, wanted) for row in rows):
            raise _no_column(file.name, wanted, sorted({str(key) for row in rows for key in row.values}))
    return rows


def _key(values: Mapping[str, Any], wanted: str) -> str | None:
    """The name of a column in a row; it may differ in case if there is only one such column."""
    if wanted in values:
        return wanted
    near = [key for key in values if key.strip().casefold() == wanted.casefold()]
    return near[0] if len(near) == 1 else None


def _no_column(table: str, wanted: str, columns: Sequence[str]) -> UserError:
    near = [name for name in columns if name.strip().casefold() == wanted.casefold()]
    usual = _USUAL_FILE_COLUMNS if wanted == FILE_COLUMN else _USUAL_CAPTION_COLUMNS
    near += get_close_matches(wanted, columns, 3, 0.6) or [name for name in columns if name.strip().casefold() in usual]
    if not columns:
        fix = "every row requires one"
    elif len(near) > 1 and near[0].casefold() == near[1].casefold():
        fix = f"keep one of {near[0]!r} and {near[1]!r}, and rename it to {wanted!r}"
    elif wanted == FILE_COLUMN:
        what = repr(near[0]) if near else "of the images' paths"
        fix = f"rename the column {what} to {wanted!r}"
    elif near:
        flag = f"--caption-column {_quoted(near[0])}"
        fix = f"did you mean {near[0]!r}? add {flag}"
    else:
        fix = "name the column of captions with --caption-column"
    return UserError(f"{table} has no column {wanted!r}", got=f"columns {', '.join(columns) or 'none'}", fix=fix)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


def _kind(value: object) -> str:
    """The kind of a JSON value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, (int, float)) else "a list" if isinstance(value, list) else "an object"


@dataclass(frozen=True, slots=True)
class _Work:
    """Converts rows to source items.

    Attributes:
        column: Name of the column of captions.
        files: All files by name.
        by_last_part: Images by the last part of their path, with and without its suffix.
        named: Names of the files that rows refer to.
    """

    column: str
    files: ByName[Entry]
    by_last_part: Mapping[str, list[Entry]]
    named: set[str] = field(default_factory=set[str])

    def item(self, table: Entry, row: Row) -> SourceItem:
        """The source item of one row."""
        here = f"{table.name}:{row.line}"
        key = _key(row.values, FILE_COLUMN)
        file_name = row.values[key] if key is not None else None
        if row.problem:
            entry = self._file(table, file_name)[0] if isinstance(file_name, str) else None
            if entry is None or entry.name in self.named:
                return SourceItem(id=here, image=table.path, caption=None, problem=row.problem, source=table.path)
            self.named.add(entry.name)
            return SourceItem(
                id=entry.stem, image=entry.path, caption=None, problem=f"{table.name}: {row.problem}", source=table.path
            )
        if not isinstance(file_name, str):
            problem = f"line {row.line} has no {FILE_COLUMN}"
            if key is not None:
                problem = f"line {row.line}: its {FILE_COLUMN!r} is {_kind(file_name)}, not a text"
            return SourceItem(id=here, image=table.path, caption=None, problem=problem, source=table.path)
        entry, notes, problem = self._file(table, file_name)
        if entry is None:
            return SourceItem(
                id=here, image=table.path, caption=None, problem=f"line {row.line}: {problem}", source=table.path
            )
        if entry.name in self.named:
            problem = f"named a second time in line {row.line} of {table.name}"
        elif entry.problem or not entry.is_image:
            problem = entry.problem or "not an image by its suffix"
        self.named.add(entry.name)
        if problem:
            return SourceItem(id=entry.stem, image=entry.path, caption=None, problem=problem, source=table.path)
        return self._with_caption(table, row, entry, notes + _other_name(key, FILE_COLUMN))

    def _with_caption(self, table: Entry, row: Row, entry: Entry, notes: tuple[str, ...]) -> SourceItem:
        key = _key(row.values, self.column)
        caption = row.values[key] if key is not None else None
        notes += _other_name(key, self.column)
        if isinstance(caption, float) and caption != caption:
            caption = None  # an empty cell as pandas writes it
        if caption is not None and not isinstance(caption, str):
            problem = f"line {row.line}: its {self.column!r} is {_kind(caption)}, not a text"
            return SourceItem(id=entry.stem, image=entry.path, caption=None, problem=problem, source=table.path)
        if key is None:
            notes += (f"its row has no {self.column!r}: line {row.line} has {', '.join(row.values)}",)
        elif caption is None:
            notes += (f"its {self.column!r} is null: line {row.line}",)
        more = more_captions(caption, row.values.get("captions"))
        return SourceItem(
            id=entry.stem, image=entry.path, caption=caption, source=table.path, notes=notes, more_captions=more
        )

    def _file(self, table: Entry, file_name: str) -> tuple[Entry | None, tuple[str, ...], str | None]:
        """The file that a row names, notes about a corrected name, and the problem if there is none."""
        notes: tuple[str, ...] = ()
        problem = path_problem(file_name)
        if problem and "\\" in file_name and path_problem(slashed := file_name.replace("\\", "/")) is None:
            problem, notes = None, (_BACKSLASHES,)
            file_name = slashed
        if problem:
            return None, (), f"{file_name!r} {problem}"
        found = self.files.find(str(PurePosixPath(table.name).parent / file_name))
        if found is None:
            return None, (), f"there is no file {file_name!r}{self._meant(table, file_name)}"
        entry, other_case = found
        return entry, notes + ((_OTHER_CASE,) if other_case else ()), None

    def _meant(self, table: Entry, file_name: str) -> str:
        """A hint if the path is right from another folder, or if only its suffix is wrong or missing."""
        above = PurePosixPath(table.name).parent
        if (found := self.files.find(str(PurePosixPath(file_name)))) and (entry := found[0]).is_image:
            path = PurePosixPath(entry.name)
            if path.is_relative_to(above):
                return f": did you mean {str(path.relative_to(above))!r}? paths are relative to the table"
            return ": the table lies in another folder, and paths are relative to the table"
        wanted = PurePosixPath(file_name.strip())
        candidates = self.by_last_part.get(wanted.name) or self.by_last_part.get(wanted.stem, [])
        paths = [path for entry in candidates if (path := PurePosixPath(entry.name)).is_relative_to(above)]
        near = [str(path.relative_to(above)) for path in paths]
        return f": did you mean {near[0]!r}? paths are relative to the table" if len(near) == 1 else ""


def _other_name(key: str | None, wanted: str) -> tuple[str, ...]:
    return () if key in {None, wanted} else (f"its column {key!r} is read as {wanted!r}",)


def _by_last_part(entries: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_image:
            path = PurePosixPath(entry.name)
            for key in {path.name, path.stem}:
                found.setdefault(key, []).append(entry)
    return found


FORMAT: WritableFormat = ImageFolder()


def _write(folder: Path, captions: Mapping[str, str], save_image: SaveImage) -> None:
    rows = [json.dumps({FILE_COLUMN: f"{item_id}.png", CAPTION_COLUMN: text}) for item_id, text in captions.items()]
    for item_id in captions:
        save_image(folder / f"{item_id}.png")
    (folder / METADATA_NAMES[0]).write_text("\n".join(rows), encoding="utf-8")


CONTRACT = FormatContract(write=_write)
