"""What `prepare` has done so far, on disk, so that a killed run loses nothing.

In: one line for every finished image and every caption that a captioner wrote, appended as it is finished. Out: the
same after a restart. A line that a kill cut short is passed over; a line is believed only when the source file, the
settings and the prepared file still have the sums it names.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, MAX_TABLE_BYTES, check_regular_file, is_there, parse_record


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One prepared image.

    Attributes:
        id: As in `SourceItem`.
        settings: `ImageSettings.fingerprint` it was made with.
        image: Path of the prepared file relative to the dataset, `/` between parts.
        hashes: 8 perceptual hashes of 64 bits, see `duplicates`.
        notes: What the user should know though the image is used.
        source_sha256, sha256, width, height, source_width, source_height, crop, scale: As in `Example`.
    """

    id: str
    settings: str
    image: str
    source_sha256: str
    sha256: str
    width: int
    height: int
    source_width: int
    source_height: int
    crop: tuple[int, int, int, int]
    scale: float
    hashes: tuple[int, ...]
    notes: tuple[str, ...]


CaptionKey = tuple[str, str, str]
"""id, source_sha256 and the fingerprint of captioner, template and trigger."""


@dataclass(frozen=True, slots=True)
class _CaptionNote:
    """The line of a caption that a captioner wrote."""

    caption_of: CaptionKey
    caption: str


class Journal:
    """An append-only file of rows; a context manager that closes it.

    Args:
        path: The file.
        write: Whether rows are added; else it is only read.

    Attributes:
        rows: The last row of every id.
        captions: Captions written by a captioner.
        num_unread: Lines that are no rows: cut short by a kill, damaged, or not ours.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        self.rows: dict[str, ImageRow] = {}
        self.captions: dict[CaptionKey, str] = {}
        self.num_unread = 0
        self._read()
        if not write:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")
        self._file.write("\n")  # ends a line that a kill cut short

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_row(self, row: ImageRow) -> None:
        """Note a finished image; it survives the end of this process."""
        self.rows[row.id] = row
        self._append(asdict(row))

    def add_caption(self, key: CaptionKey, caption: str) -> None:
        """Note a caption that a captioner wrote."""
        self.captions[key] = caption
        self._append({"caption_of": list(key), "caption": caption})

    def compact(self, ids: set[str]) -> None:
        """Keep the last line of every id in `ids` and forget the others."""
        self._file.close()
        lines = [json.dumps(asdict(row)) for item_id, row in self.rows.items() if item_id in ids]
        lines += [
            json.dumps({"caption_of": list(key), "caption": caption}, ensure_ascii=False)
            for key, caption in self.captions.items()
            if key[0] in ids
        ]
        write_text(self.path, "".join(line + "\n" for line in lines))

    def _append(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self) -> None:
        if not is_there(self.path):
            return
        size = check_regular_file(self.path, "the dataset's journal", max_bytes=MAX_TABLE_BYTES)
        with self.path.open("rb") as file:
            while file.tell() < size:
                line = file.readline(MAX_CONFIG_BYTES + 1)
                try:
                    self._believe(line.decode("utf-8", errors="replace"))
                except UserError:
                    self.num_unread += 1

    def _believe(self, line: str) -> None:
        if line.startswith('{"caption_of"'):
            note = parse_record(_CaptionNote, line, "the journal")
            self.captions[note.caption_of] = note.caption
        elif line.strip():
            row = parse_record(ImageRow, line, "the journal")
            if path_problem(row.image) is not None or not row.image.startswith("images/"):
                raise UserError("the journal names a file that is no prepared image", got=row.image)
            self.rows[row.id] = row
