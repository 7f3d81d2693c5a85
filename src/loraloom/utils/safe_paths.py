"""Names of files that come from elsewhere: which may be opened, and what an image is called on every system.

In: ids and paths written by somebody else. Out: reasons to refuse them, and file names that are safe on Linux, macOS
and Windows. Imports nothing of ours: formats use it too.
"""

import codecs
import hashlib
import re
from pathlib import PurePosixPath, PureWindowsPath

_BAD = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')
_PLAIN = re.compile(r"[A-Za-z0-9_-][\w.-]*(?:/[A-Za-z0-9_-][\w.-]*)*", re.ASCII)
"""Most names: no part begins with a dot, nothing in them means anything to a system. Parsing a path takes 20 times longer."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_LONGEST_PART_BYTES = 180
_LONGEST_NAME = 1000
_SHOWN = 240
_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""Bytes of a name that are not UTF-8 reach Python as these."""
_NO_ENCODINGS = {"unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined"}
"""Codecs of Python's that decode bytes to text and that no file is saved in."""


def path_problem(name: str) -> str | None:
    """Why a path may not be opened below a folder, as the end of a sentence; None when it may."""
    if len(name) <= _LONGEST_NAME and _PLAIN.fullmatch(name):
        return None
    windows = PureWindowsPath(name)
    if not name.strip() or "\0" in name:
        return "is not a file name"
    if len(name) > _LONGEST_NAME:
        return f"has {len(name):,} letters: at most {_LONGEST_NAME:,} are read"
    if _HALF_PAIR.search(name):
        return "is not UTF-8"
    if name.startswith("/") or windows.drive or windows.root:
        return "is an absolute path: only paths below the folder are read"
    if "\\" in name:
        return "has a backslash: write / between folders"
    if ".." in PurePosixPath(name).parts:
        return "leads out of the folder"
    return None


def printable_name(name: str) -> str:
    """`name` as UTF-8 can hold it: bytes that are none become escapes such as `\\udce9`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def short_name(name: str) -> str:
    """`name` for a line on the terminal: the middle of a very long one is left out."""
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN // 2]}…{name[-_SHOWN // 2 :]}"


def encoding_problem(name: str) -> str | None:
    """Why texts cannot be read in an encoding of this name; None when they can."""
    try:
        known = codecs.lookup(name).name
        b"a".decode(name)  # base64 and its like are codecs, and no encodings of text
    except UnicodeError:
        return None  # UTF-16 needs two bytes
    except (LookupError, ValueError):
        return "unknown encoding"
    return "not an encoding of texts" if known.replace("_", "-") in _NO_ENCODINGS else None


def safe_name(item_id: str) -> str:
    """`item_id` as a relative path whose every part is a legal file name on every system.

    Sub-folders stay sub-folders. An id that had to be changed gets a piece of its own hash, so that two ids never meet.
    """
    parts = [_safe_part(part) for part in item_id.split("/") if part]
    name = "/".join(parts)
    if name != item_id or not name:
        name = f"{name or '_'}-{short_hash(item_id)}"
    return name


def short_hash(text: str) -> str:
    """8 hex digits of a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _safe_part(part: str) -> str:
    safe = _BAD.sub("_", part.encode("utf-8", "backslashreplace")[:_LONGEST_PART_BYTES].decode("utf-8", "ignore"))
    safe = safe.rstrip(". ")
    if not safe or safe.startswith(".") or _RESERVED.fullmatch(safe):
        safe = f"_{safe.lstrip('.')}"
    return safe
