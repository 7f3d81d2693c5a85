"""The captions that `loraloom caption` wrote for a folder, in versions, with the texts that they replaced.

In and out: `FOLDER/.captions/`. `v0003.jsonl` is a version: a header, then one row an image; a version is whole and is never
changed. `current.json` says which one holds. `kept/` has the bytes of caption files that were overwritten. `prepare` and
`caption` read it; undo makes the version before current. What is read is checked: a folder may come from anybody.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loraloom.utils.atomic_files import sha256_bytes, write_bytes, write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.listing import IMAGE_SUFFIXES, TABLE_SUFFIXES
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import (
    MIB,
    check_range,
    is_file,
    is_there,
    parse_record,
    read_bytes,
    read_json_object,
    read_lines,
    shown,
)

STORE = ".captions"
CURRENT, KEPT = "current.json", "kept"
_MOST_VERSIONS = 9999
_FILE = re.compile(r"v(\d{4})\.jsonl")
_MAX_TEXT_BYTES = MIB
_AGAIN = "repair it, or remove the folder .captions and caption again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCaption:
    """The captions of one image in one version.

    Attributes:
        id: Id of the `SourceItem`.
        sha256: Hash of the image file's bytes when it was captioned, hex.
        raw: What the captioner wrote, before edits.
        captions: Final captions, at least one.
        found: The text written by hand that they replace (`--overwrite`); None if there was none.
        file: The caption file that was written, relative to the folder; None: none.
        file_sha256: Hash of its bytes.
        kept: sha256 of the bytes that this file had before; they are in `kept/`. None if there was no file.
    """

    id: str
    sha256: str
    raw: tuple[str, ...]
    captions: tuple[str, ...]
    found: str | None = None
    file: str | None = None
    file_sha256: str | None = None
    kept: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a version.

    Attributes:
        version: Its number, from 1.
        parent: The version that was current before; 0: none.
        created: Time in ISO 8601.
        captioner: Name of the captioner; empty: captions were edited.
        summary: What was done, for the user.
        words: Fingerprint of what decides `raw`.
        edits: Fingerprint of what decides `captions`.
    """

    version: int
    parent: int
    created: str
    captioner: str
    summary: str
    words: str
    edits: str


@dataclass(frozen=True, slots=True)
class Version:
    """A version: its header, and its rows by id."""

    header: Header
    rows: dict[str, StoredCaption] = field(default_factory=dict[str, StoredCaption])


class CaptionStore:
    """The store of a folder of images; reading it makes nothing there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / STORE

    def current(self) -> Version | None:
        """The version that holds; None if there is none.

        Raises:
            UserError: The store is damaged.
        """
        number = self._state()["version"]
        return self.read(number) if number else None

    def numbers(self) -> list[int]:
        """All versions, ascending."""
        if not self.place.is_dir():
            return []
        found = [_FILE.fullmatch(entry.name) for entry in self.place.iterdir()]
        return sorted(int(match[1]) for match in found if match)

    def read(self, number: int) -> Version:
        """A version.

        Raises:
            UserError: It is not there, or a row cannot be used.
        """
        path = self._file(number)
        if not is_there(path):
            known = ", ".join(map(str, self.numbers())) or "none"
            raise UserError("there is no such version of the captions", got=number, expected=f"one of {known}")
        lines = read_lines(path, f"{STORE}/{path.name}")
        _, first = next(lines, (0, ""))
        header = parse_record(Header, first, f"{STORE}/{path.name} line 1", fix=_AGAIN)
        version = Version(header)
        for line, text in lines:
            row = _row(text, f"{STORE}/{path.name} line {line}")
            version.rows[row.id] = row
        return version

    def headers(self) -> list[Header]:
        """The headers of all versions, ascending."""
        found: list[Header] = []
        for number in self.numbers():
            path = self._file(number)
            _, first = next(read_lines(path, f"{STORE}/{path.name}"), (0, ""))
            found.append(parse_record(Header, first, f"{STORE}/{path.name} line 1", fix=_AGAIN))
        return found

    def next_number(self) -> int:
        """The number of the next version."""
        number = max(self.numbers(), default=0) + 1
        if number > _MOST_VERSIONS:
            raise UserError(
                "there are too many versions of captions", got=number, fix=f"remove old ones from {self.place}"
            )
        return number

    def add(self, header: Header, rows: Iterable[StoredCaption]) -> None:
        """Write a version; `use` makes it current."""
        lines = [json.dumps(asdict(header), ensure_ascii=False)]
        lines += [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
        write_text(self._file(header.version), "".join(line + "\n" for line in lines))

    def keep(self, data: bytes) -> str:
        """Keep the bytes of a caption file; returns their sha256."""
        name = sha256_bytes(data)
        if not is_file(self.place / KEPT / name):
            write_bytes(self.place / KEPT / name, data)
        return name

    def use(self, number: int) -> list[str]:
        """Make a version current, 0 for none, caption files with it; returns the files that were left alone.

        A file that somebody changed since it was written stays as it is. A kill in between is finished by the next call
        of `finish`.
        """
        before = self._state()["version"]
        write_json(self.place / CURRENT, {"version": before, "next": number})
        left = self._switch(before, number)
        write_json(self.place / CURRENT, {"version": number, "next": None})
        return left

    def finish(self) -> None:
        """Finish a `use` that was interrupted."""
        state = self._state()
        if state["next"] is not None:
            self.use(state["next"])

    def _switch(self, before: int, after: int) -> list[str]:
        old = self.read(before).rows if before else {}
        new = self.read(after).rows if after else {}
        left: list[str] = []
        for item_id in sorted({*old, *new}):
            one, two = old.get(item_id), new.get(item_id)
            name = (two and two.file) or (one and one.file)
            if not name:
                continue
            path = self.folder / name
            if path.is_symlink():
                left.append(name)
                continue
            present = read_bytes(path, name, max_bytes=_MAX_TEXT_BYTES) if is_there(path) else None
            known = {row.file_sha256 for row in (one, two) if row} | {row.kept for row in (one, two) if row}
            if (sha256_bytes(present) if present is not None else None) not in known | {None}:
                left.append(name)
                continue
            wanted = self._content(one, two)
            if wanted is None:
                path.unlink(missing_ok=True)
            elif wanted != present:
                write_bytes(path, wanted)
        return left

    def _content(self, old: StoredCaption | None, new: StoredCaption | None) -> bytes | None:
        """The bytes of a caption file after a switch; None: no file."""
        if new and new.file:
            return file_bytes(new.captions)
        kept = old.kept if old else None
        return (
            read_bytes(self.place / KEPT / kept, f"{STORE}/{KEPT}/{kept}", max_bytes=_MAX_TEXT_BYTES) if kept else None
        )

    def _state(self) -> dict[str, Any]:
        path = self.place / CURRENT
        if not is_there(path):
            return {"version": 0, "next": None}
        value = read_json_object(path, f"{STORE}/{CURRENT}")
        check_range(value.get("version"), f"{STORE}/{CURRENT}: version", 0, _MOST_VERSIONS)
        if value.get("next") is not None:
            check_range(value["next"], f"{STORE}/{CURRENT}: next", 0, _MOST_VERSIONS)
        return {"version": value["version"], "next": value.get("next")}

    def _file(self, number: int) -> Path:
        return self.place / f"v{number:04d}.jsonl"


def file_bytes(captions: Sequence[str]) -> bytes:
    """The content of a caption file: the first caption."""
    return f"{captions[0]}\n".encode()


def _row(text: str, where: str) -> StoredCaption:
    row = parse_record(StoredCaption, text, where, fix=_AGAIN)
    if not row.captions or not all(caption.strip() for caption in row.captions):
        raise UserError(f"{where} has no caption", fix=_AGAIN)
    if row.file is not None:
        other = Path(row.file).suffix.lower() in IMAGE_SUFFIXES | TABLE_SUFFIXES
        if problem := path_problem(row.file) or ("is no text" if other else None if row.file_sha256 else "has no sum"):
            raise UserError(f"{where}: file {problem}", got=shown(row.file), fix=_AGAIN)
    if row.kept is not None and not re.fullmatch("[0-9a-f]{64}", row.kept):
        raise UserError(f"{where}: kept", got=shown(row.kept), expected="a sha256", fix=_AGAIN)
    return row


def read_row(text: str, where: str) -> StoredCaption:
    """A row of a journal.

    Raises:
        UserError: It cannot be used.
    """
    return _row(text, where)
