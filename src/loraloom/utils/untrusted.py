"""Read files that others wrote: bounded, regular files only, parsed into checked types or refused with a reason.

In: a path and a limit. Out: bytes, text, JSON or a typed record. Every failure is a `UserError` that names the file:
FIFOs, devices and link loops are never opened, an oversized file is refused before it is read, nested or endless JSON
before it is parsed, and an error inside a library becomes ours in `library_errors`.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loraloom.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

MIB = 1 << 20
MAX_CONFIG_BYTES = 1 * MIB
"""Settings, model configs, records in metadata."""
MAX_RECORD_BYTES = 16 * MIB
"""Lists that grow with the number of images of one command, such as `prompts.jsonl` or `split.json`."""
MAX_TOKENIZER_BYTES = 64 * MIB
"""A vocabulary with its merges; the largest in use are 20 MB."""
MAX_TABLE_BYTES = 2048 * MIB
"""A manifest or a caption table: about 600 bytes a row, so three million images."""
MAX_LINES = 5_000_000
MAX_DEPTH = 64
MAX_DIGITS = 400
"""Digits of one number in JSON. A float has at most 309 before its point."""

_SHOWN = 80
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_NUMBER = re.compile(rf"(?<!\d)\d{{{MAX_DIGITS + 1}}}")


def check_regular_file(path: Path, what: str, *, max_bytes: int) -> int:
    """Size in bytes of a file that may be opened.

    Args:
        path: Links are followed.
        what: Names the file in errors, such as "the model's unet/config.json".
        max_bytes: Largest size that is read.

    Raises:
        UserError: Missing, a folder, FIFO, socket or device, a loop of links, not readable, or too large.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        linked = path.is_symlink()
        raise UserError(
            f"{what} is missing" if not linked else f"{what} is a link to a file that is not there",
            got=str(path),
            fix="check the path",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} cannot be opened ({_reason(error)})", got=str(path), fix="check the path") from None
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{what} is not a regular file", got=_kind(state.st_mode), fix=f"replace {path} by a file")
    if state.st_size > max_bytes:
        raise UserError(
            f"{what} is too large",
            got=f"{state.st_size:,} bytes in {path}",
            expected=f"at most {max_bytes:,}",
            fix="check that it is the file you mean",
        )
    return state.st_size


def is_file(path: Path) -> bool:
    """Whether a regular file is there. False, not an error, for a name that no file can have and for a loop of links."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there. False, not an error, for a name that none can have and for a loop of links."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Whether anything has this name: a file, a folder, a FIFO, a link that leads nowhere."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def read_bytes(path: Path, what: str, *, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`.

    Raises:
        UserError: As `check_regular_file`, or the file grew while it was read.
    """
    check_regular_file(path, what, max_bytes=max_bytes)
    try:
        # Without O_NONBLOCK a FIFO that takes the file's place after the check would block for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        pieces: list[bytes] = []
        left = max_bytes + 1
        with os.fdopen(descriptor, "rb") as file:
            # A single read would allocate all that a file may hold, two gigabytes for a table of ten lines.
            while left > 0 and (piece := file.read(min(left, MIB))):
                pieces.append(piece)
                left -= len(piece)
        data = b"".join(pieces)
    except OSError as error:
        raise UserError(f"{what} cannot be read ({_reason(error)})", got=str(path), fix="check the file") from None
    if len(data) > max_bytes:
        raise UserError(f"{what} is too large", got=str(path), expected=f"at most {max_bytes:,} bytes")
    return data


def read_text(path: Path, what: str, *, max_bytes: int) -> str:
    """UTF-8 text of a regular file; a byte order mark is dropped.

    Raises:
        UserError: As `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, what, max_bytes=max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8", got=f"byte {error.start} of {path}", fix="save it as UTF-8") from None


def read_lines(path: Path, what: str, *, max_bytes: int = MAX_TABLE_BYTES) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file with their numbers from 1, blank ones left out, read one after another.

    A line ends with `\\n` only: texts inside JSON may hold the other line ends. A byte order mark is dropped.

    Raises:
        UserError: As `check_regular_file`; a line is not UTF-8 or has more than `MAX_CONFIG_BYTES`; more than `MAX_LINES`.
    """
    return ((number, line) for number, _, _, line in read_lines_at(path, what, max_bytes=max_bytes))


def read_lines_at(path: Path, what: str, *, max_bytes: int = MAX_TABLE_BYTES) -> Iterator[tuple[int, int, int, str]]:
    """As `read_lines`, each with its first byte and its number of bytes, the line end included, after its number.

    Raises:
        UserError: As `read_lines`.
    """
    check_regular_file(path, what, max_bytes=max_bytes)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            offset = 0
            for number in range(1, MAX_LINES + 1):
                line = file.readline(MAX_CONFIG_BYTES + 1)
                if not line:
                    return
                if len(line) > MAX_CONFIG_BYTES:
                    raise UserError(f"{what} line {number} is too long", expected=f"at most {MAX_CONFIG_BYTES:,} bytes")
                if line.strip():
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\n")
                    yield number, offset, len(line), text
                offset += len(line)
            if file.read(1):
                raise UserError(f"{what} has too many lines", expected=f"at most {MAX_LINES:,}", got=str(path))
    except OSError as error:
        raise UserError(f"{what} cannot be read ({_reason(error)})", got=str(path), fix="check the file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8", got=f"byte {error.start} of a line", fix="save it as UTF-8") from None


def parse_json(text: str, where: str, *, constants: bool = False, unique_keys: bool = False) -> Any:
    """JSON that came from outside, as plain values.

    Refused before parsing: more than `MAX_DEPTH` brackets inside each other, numbers of more than `MAX_DIGITS` digits.
    Refused after it: `NaN` and `Infinity` (taken with `constants`, as tables of other programs have them), floats beyond
    their range, half of a surrogate pair, which UTF-8 cannot hold, and with `unique_keys` a key that an object has twice.

    Raises:
        UserError: As above, or not JSON; names `where`.
    """
    # Few brackets and no long run of digits, strings included: most rows of a table need no closer look.
    if text.count("[") + text.count("{") > MAX_DEPTH or _LONG_NUMBER.search(text):
        _check_nesting(text, where)
    try:
        value = json.loads(
            text,
            parse_constant=None if constants else _refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_with_unique_keys if unique_keys else None,
        )
    except _DuplicateKeyError as error:
        fix = "keep one of the two: only one could be read"
        raise UserError(f"{where} has a duplicate key", got=shown(error.args[0]), fix=fix) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON", got=str(error)[:_SHOWN], fix="repair it or make it again") from None
    if "\\u" in text and (half := _surrogate_in(value)) is not None:
        raise UserError(f"{where} holds half of a surrogate pair", got=ascii(half)[:_SHOWN], fix="repair the text")
    return value


def check_text(text: str, where: str) -> str:
    """`text` when UTF-8 can hold it.

    Bytes of a command line that are not UTF-8 reach Python as halves of surrogate pairs, and so may JSON: printing,
    saving or tokenizing such a text fails somewhere deep inside.

    Raises:
        UserError: It cannot; names `where`.
    """
    if _SURROGATE.search(text):
        raise UserError(
            f"{where} is not UTF-8 text",
            got=shown(text),
            expected="characters that UTF-8 can hold",
            fix="type it again, or convert it (the terminal's or file's encoding may be Latin-1)",
        )
    return text


def read_json(path: Path, what: str, *, max_bytes: int = MAX_CONFIG_BYTES, unique_keys: bool = False) -> Any:
    """`parse_json` of a file.

    Raises:
        UserError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, what, max_bytes=max_bytes), what, unique_keys=unique_keys)


def read_json_object(
    path: Path, what: str, *, max_bytes: int = MAX_CONFIG_BYTES, unique_keys: bool = False
) -> dict[str, Any]:
    """`read_json` of a file that must hold an object.

    Raises:
        UserError: As `read_json`, or it holds another kind of value.
    """
    value = read_json(path, what, max_bytes=max_bytes, unique_keys=unique_keys)
    if not isinstance(value, dict):
        raise UserError(f"{what} is not a JSON object", got=type(value).__name__, fix="repair it or make it again")
    return value


def parse_record(kind: type[T], text: str, where: str, *, fix: str = "repair it or make it again") -> T:
    """A JSON object as a dataclass, strictly: no text becomes a number, no number a bool, lists become tuples.

    Args:
        kind: A dataclass; its annotations are the check, `Annotated[int, Field(ge=1)]` included.
        text: JSON as it came from outside.
        where: Names the file and line in errors.
        fix: What the user can do.

    Raises:
        UserError: As `parse_json`; or names the first field that does not fit and counts the others.
    """
    from pydantic import ValidationError  # 0.1 s, and not every caller needs it

    value = parse_json(text, where, unique_keys=True)
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object", got=shown(value), fix=fix)
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := [str(name) for name in value if name not in known]:
        more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        hint = did_you_mean(unknown[0][:_SHOWN], known)
        raise UserError(f"{where} has an unknown field{more}", got=unknown[0][:_SHOWN], fix=hint)
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    fault = faults[0]
    field = ".".join(str(part) for part in fault["loc"])
    more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
    if fault["type"] in {"missing", "missing_argument"}:
        if isinstance(fault["loc"][-1], int):  # of a list of fixed length
            given = value.get(fault["loc"][0]) if len(fault["loc"]) == 2 else fault["input"]
            raise UserError(f"{where}: {fault['loc'][0]} has too few values{more}", got=shown(given), fix=fix)
        raise UserError(f"{where} has no {field!r}{more}", fix=fix)
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("a valid ").removeprefix("Value error, ")
    raise UserError(f"{where}: {field[:_SHOWN]}{more}", got=shown(fault["input"]), expected=expected, fix=fix)


def check_range(value: Any, where: str, low: float, high: float, *, whole: bool = True) -> Any:
    """`value` when it is a number between the limits, bounds included; bools are no numbers.

    Raises:
        UserError: It is not; names `where` and the range.
    """
    kinds = (int,) if whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    if not fits:
        kind = "a whole number" if whole else "a number"
        raise UserError(where, got=shown(value), expected=f"{kind} from {low:,} to {high:,}")
    return value


@contextmanager
def library_errors(what: str, path: object, *, fix: str = "check the file, or get it again") -> Iterator[None]:
    """Turn any failure inside a library that opens a user's file into a `UserError` with the file's name.

    `UserError`, KeyboardInterrupt and SystemExit pass through. Keep the block to the library's call: a bug of our own
    inside it would be blamed on the file.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # A panic of a library in Rust, such as tokenizers, is no `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
        raise UserError(f"{what} cannot be read ({reason})", got=str(path), fix=fix) from error


@dataclass(frozen=True, slots=True)
class Shown:
    """A value as an error line shows it."""

    text: str

    def __str__(self) -> str:
        return self.text


def shown(value: object) -> Shown:
    """A value for `UserError.got`: its `repr`, in ASCII where it could not be printed, at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return Shown(f"a whole number of {value.bit_length():,} bits")
    if isinstance(value, (Mapping, list, tuple, set)) and len(value) > 20:
        return Shown(f"a {type(value).__name__} of {len(value):,}")
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits somewhere inside
        text = f"a {type(value).__name__}"
    if not text.isprintable():
        text = ascii(value)
    return Shown(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


class _DuplicateKeyError(ValueError):
    """Its argument is the key."""


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _surrogate_in(value: Any) -> str | None:
    """The first text of a JSON value that UTF-8 cannot hold."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str) and _SURROGATE.search(item):
            return item
    return None


def _check_nesting(text: str, where: str) -> None:
    bare = _STRINGS.sub('""', text)
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket.group() in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise UserError(f"{where} is nested too deeply", got=f"{deepest} levels", expected=f"at most {MAX_DEPTH}")
    if _LONG_NUMBER.search(bare):
        raise UserError(f"{where} has a number of more than {MAX_DIGITS} digits", fix="repair it")


@cache
def _adapter(kind: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


_KINDS: list[tuple[Callable[[int], bool], str]] = [
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
]


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
