"""What the folder layouts share: walking a folder safely, reading texts, keeping ids unique.

In: a folder that somebody else filled. Out: its files by name, texts, and source items with their problems. Nothing is
followed out of the folder, and a file that cannot be used is reported, never skipped in silence.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from loraloom.contracts import SourceItem

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}) | {
    # Known as pictures, refused with their own reason when they are decoded.
    *(".svg", ".heic", ".heif", ".jxl", ".psd")
}
TEXT_SUFFIX = ".txt"
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file below a folder.

    Attributes:
        name: Path below the folder, `/` between parts.
        path: The file.
        problem: Why it may not be used; None when it may.
    """

    name: str
    path: Path
    problem: str | None = None

    @property
    def suffix(self) -> str:
        """Lower-case suffix with its dot."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def stem(self) -> str:
        """`name` without its suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def is_picture(self) -> bool:
        """Whether the suffix is a picture's."""
        return self.suffix in PICTURE_SUFFIXES

    @property
    def is_text(self) -> bool:
        """Whether the suffix is a text's."""
        return self.suffix == TEXT_SUFFIX


def walk(folder: Path) -> list[Entry]:
    """All files below `folder` sorted by name; hidden ones, `__MACOSX` and linked folders are passed over.

    A link to a file counts as the file when it stays inside the folder and has a problem when it leads out of it.
    """
    root = folder.resolve()
    found: list[Entry] = []
    for directory, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        prefix = "" if (below := Path(directory).relative_to(folder).as_posix()) == "." else f"{below}/"
        found.extend(_entry(root, f"{prefix}{name}", Path(directory, name)) for name in files if not _hidden(name))
    return sorted(found, key=lambda entry: entry.name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _entry(root: Path, name: str, path: Path) -> Entry:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        return Entry(shown, path, "its name is not valid Unicode: rename it")
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return Entry(name, path, "a link that leads nowhere")
        if not target.is_relative_to(root):
            return Entry(name, path, "a link that leads out of the folder: copy the file itself into it")
    if not path.is_file():
        return Entry(name, path, "not a regular file")
    return Entry(name, path)


def read_text(path: Path) -> tuple[str | None, str | None]:
    """The text of a UTF-8 file with or without BOM, line ends kept; or None and the reason why it cannot be read."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            return None, f"{path.name} is larger than 1 MiB: not a caption"
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, f"{path.name} is not UTF-8 (byte {error.start}): save it as UTF-8"
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror}"
    if "\0" in text:
        return None, f"{path.name} is not a text: it has NUL bytes"
    return text, None


def sorted_unique(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """`items` sorted by id; of several with one id the later ones get a problem.

    Ids that differ only in case or in Unicode form count as one: on some disks they are one file.
    """
    seen: dict[str, SourceItem] = {}
    for item in sorted(items, key=lambda item: (item.id, item.image.name)):
        if item.problem is None:
            key = unicodedata.normalize("NFC", item.id).casefold()
            if key in seen:
                item = replace(item, problem=f"another picture has the same name: {seen[key].image.name}")
            else:
                seen[key] = item
        yield item


def count(number: int, noun: str) -> str:
    """`1 picture`, `3 pictures`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
