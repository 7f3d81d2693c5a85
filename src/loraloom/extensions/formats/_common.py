"""Shared code of the folder layouts: finding files by name, reading texts, keeping ids unique.

In: the files of an untrusted folder. Out: texts, and source items with their problems. A file that cannot be used is
reported, never skipped silently.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError
from loraloom.utils.listing import Entry, find_masks, name_key, walk
from loraloom.utils.safe_paths import encoding_problem
from loraloom.utils.untrusted import read_bytes

Value = TypeVar("Value")

CAPTION_SUFFIXES = (".txt", ".caption")
MAX_TEXT_BYTES = 1 << 20
_MASK = "a mask of another image: not learned as an image"
_BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "an Office file or an archive",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"bplist00": "a binary property list",
    b"\x1f\x8b": "an archive",
    b"PAR1": "a Parquet table",
}
"""First bytes of files that are not texts, whatever their names are."""
_TRIED = ("cp949", "cp932", "gb18030", "big5", "cp1251", "cp1252")
"""Encodings that are suggested if they can decode a text: Korean, Japanese, Chinese, Cyrillic, Western European."""


def listed(folder: Path) -> list[Entry]:
    """The entries of `walk`, with a problem at every mask."""
    entries = walk(folder)
    masks = find_masks(entries)
    return [replace(entry, problem=_MASK) if entry.name in masks else entry for entry in entries]


def has_images(folder: Path) -> bool:
    """Whether image files lie in a folder: tables and archives beside them are not the layout of the folder."""
    return any(entry.is_image for entry in walk(folder))


def caption_suffixes(options: Mapping[str, Any]) -> list[str]:
    """Suffixes of captions, the user's own first."""
    return list(dict.fromkeys([*options.get("caption_suffix", ()), *CAPTION_SUFFIXES]))


class ByName(Generic[Value]):
    """Values by name, found by the exact name, then in Unicode NFC, then without case if only one name matches."""

    def __init__(self, values: Iterable[tuple[str, Value]]) -> None:
        self._exact: dict[str, Value] = {}
        self._nfc: dict[str, Value] = {}
        self._merged: dict[str, list[Value]] = {}
        for name, value in values:
            self._exact[name] = value
            self._nfc.setdefault(name_key(name), value)
            self._merged.setdefault(name_key(name).casefold(), []).append(value)

    def find(self, name: str) -> tuple[Value, bool] | None:
        """The value, and whether the name differs in case; None if there is none, or if several differ only in case."""
        if (value := self._exact.get(name)) is not None or (value := self._nfc.get(name_key(name))) is not None:
            return value, False
        near = self._merged.get(name_key(name).casefold(), [])
        return (near[0], True) if len(near) == 1 else None


def read_text(path: Path, encoding: str = "") -> tuple[str | None, str | None]:
    """The text of a file with its line ends; or None and the reason why it cannot be read."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            return None, f"{path.name} is larger than 1 MiB: not a caption"
        data = read_bytes(path, path.name, max_bytes=MAX_TEXT_BYTES)
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror}"
    except UserError as error:
        return None, error.what
    text, problem = decode_text(data, encoding)
    if text is None:
        return None, f"{path.name} {problem}"
    if "\0" in text:
        return None, f"{path.name} is not a text: it has NUL bytes{_wide(data)}"
    return text, None


def decode_text(data: bytes, encoding: str = "") -> tuple[str | None, str]:
    """Bytes as text without a byte order mark; or None and the reason as the end of a sentence.

    Args:
        data: Content of a file.
        encoding: Name given by the user; a byte order mark overrides it. Empty is UTF-8.

    Raises:
        UserError: The encoding is unknown.
    """
    if encoding and (problem := encoding_problem(encoding)):
        raise UserError(problem, got=encoding, fix="write it as Python does: utf-8, cp949, utf-16, latin-1")
    if kind := next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None):
        return None, f"is {kind} by its content: save it as plain text"
    marked = next((name for mark, name in _BOMS.items() if data.startswith(mark)), None)
    chosen = marked or ("utf-8-sig" if not encoding or data.startswith(b"\xef\xbb\xbf") else encoding)
    try:
        return data.decode(chosen), ""
    except UnicodeError as error:
        name = "UTF-8" if chosen == "utf-8-sig" else chosen
        start = getattr(error, "start", 0)
    fits = [other for other in _TRIED if other != encoding and _readable(data, other)]
    hint = f"try --encoding {' or '.join(fits[:3])}, or save it as UTF-8" if fits else "save it as UTF-8"
    return None, f"is not {name} (byte {start}): {hint}"


def _readable(data: bytes, encoding: str) -> bool:
    try:
        text = data.decode(encoding)
    except UnicodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)


def _wide(data: bytes) -> str:
    """A hint if every second byte is NUL: UTF-16 without a byte order mark."""
    even, odd = data[0:2000:2].count(0), data[1:2000:2].count(0)
    if max(even, odd) < len(data[:2000]) // 4:
        return ""
    return f"; if it is UTF-16, add --encoding {'utf-16-le' if odd > even else 'utf-16-be'}"


def sorted_unique(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """`items` sorted by id; of several with the same id the later ones get a problem.

    Ids that differ only in case or Unicode form count as the same, because some file systems treat them so.
    """
    seen: dict[str, SourceItem] = {}
    for item in sorted(items, key=lambda item: (item.id, item.image.name)):
        if item.problem is None:
            key = name_key(item.id).casefold()
            if key in seen:
                item = replace(item, problem=f"another image has the same name: {seen[key].image.name}")
            else:
                seen[key] = item
        yield item


def more_captions(caption: str | None, listed: Any) -> tuple[str, ...]:
    """The further captions of a row: the texts of a list that has the caption among them; none for any other value."""
    texts = [one for one in cast("list[Any]", listed) if isinstance(one, str)] if isinstance(listed, list) else []
    return tuple(one for one in texts if one != caption and one.strip()) if caption in texts else ()
