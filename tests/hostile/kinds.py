"""Kinds of broken, hostile and odd files, for everything that the program reads as JSON, YAML, TOML or a model folder.

In: an artefact, which is a good folder, one file in it, the fields of that file and the way it is read. Out: cases: a good
artefact with one harm. A case passes when reading it ends in a `UserError` or in a value that can be used.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.utils.errors import UserError

VALUES: dict[str, str] = {
    "null": "null", "true": "true", "zero": "0", "minus one": "-1", "one": "1", "half": "0.5", "a billion": "1000000000",
    "beyond 64 bits": "1" + "0" * 30, "a whole number beyond a float": "1" + "0" * 350,
    "beyond a float": "1e400", "tiny": "1e-300", "5,000 digits": "1" * 5000,
    "NaN": "NaN", "infinity": "-Infinity", "empty text": '""', "text": '"x"', "number as text": '"12"',
    "half a surrogate pair": '"\\ud800"', "NUL": '"a\\u0000b"', "escape codes": '"\\u001b[2J"', "path outside": '"../../x"',
    "long text": json.dumps("x" * 100_000), "empty list": "[]", "empty object": "{}", "list of lists": "[[1], [2]]",
    "list of texts": '["a", "b"]', "object": '{"a": 1}', "long list": "[" + "1," * 20_000 + "1]",
    "deep list": "[" * 5000 + "]" * 5000, "deep object": '{"a":' * 500 + "1" + "}" * 500, "zeros": "[0, 0, 0, 0]",
}  # fmt: skip
"""JSON texts that stand in the place of a field's value, by what they are."""

ABSENT, EXTRA = "absent", "extra"


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # it may be a hard link to the good one
    path.write_bytes(data)


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        path.unlink()
        make(path)

    return harm


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 30)


def _flipped(where: float, count: int) -> Callable[[Path], None]:
    """Other bits in `count` bytes from a place on, which is a share of the file."""

    def harm(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = min(int(where * len(data)), max(len(data) - count, 0))
        for place in range(start, min(start + count, len(data))):
            data[place] ^= 0x55
        _replace(path, bytes(data))

    return harm


def _sprinkled(path: Path) -> None:
    data, rng = bytearray(path.read_bytes()), random.Random(5)
    for _ in range(max(len(data) // 200, 3)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    _replace(path, bytes(data))


HARMS: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: _replace(path, b""),
    "blank": lambda path: _replace(path, b" \n \n"),
    "binary": lambda path: _replace(path, bytes(range(256)) * 20),
    "cut short": lambda path: _replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "cut at the end": lambda path: _replace(path, path.read_bytes()[:-2]),
    "UTF-16": lambda path: _replace(path, path.read_bytes().decode("latin-1").encode("utf-16")),
    "Latin-1": lambda path: _replace(path, b'{"caf\xe9": 1}'),
    "NULs": lambda path: _replace(path, b"\0" * 5000),
    "pickle": lambda path: _replace(path, b"\x80\x04cos\nsystem\n."),
    "zip": lambda path: _replace(path, b"PK\x03\x04" + b"\0" * 60),
    "a list": lambda path: _replace(path, b"[1, 2]"),
    "a number": lambda path: _replace(path, b"3"),
    "null": lambda path: _replace(path, b"null"),
    "a text": lambda path: _replace(path, b'"x"'),
    "bits flipped at the start": _flipped(0, 3),
    "bits flipped behind the start": _flipped(0, 90),
    "bits flipped in the middle": _flipped(0.5, 30),
    "bits flipped at the end": _flipped(1, 40),
    "bytes replaced everywhere": _sprinkled,
    "doubled": lambda path: _replace(path, path.read_bytes() * 2),
    "deep": lambda path: _replace(path, b"[" * 100_000),
    "deep objects": lambda path: _replace(path, b'{"a":' * 50_000),
    "digits": lambda path: _replace(path, b"1" * 500_000),
    "many keys": lambda path: _replace(path, json.dumps(dict.fromkeys(map(str, range(60_000)), 1)).encode()),
    "a long line": lambda path: _replace(path, b'{"a": "' + b"x" * (3 << 20) + b'"}'),
    "a folder": _instead(Path.mkdir),
    "a FIFO": _instead(lambda path: os.mkfifo(path)),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a dead link": _instead(lambda path: path.symlink_to("gone")),
    "a loop of links": _instead(lambda path: path.symlink_to(path.name)),
    "8 GB of nothing": _instead(_sparse),
    "unreadable": lambda path: path.chmod(0),
}
"""What is done to a file, by what it is then."""
NEEDS_POSIX = {"a FIFO", "a device", "a dead link", "a loop of links", "8 GB of nothing", "unreadable"}


@dataclass(frozen=True)
class Artefact:
    """Something that the program reads.

    Attributes:
        name: For test ids.
        build: Makes a good one in a folder.
        file: The file to harm, below that folder.
        read: Reads and uses it; a `UserError` or a return is well.
        fields: Paths of the JSON values to replace; empty for a file that is no JSON object in its first line.
        dump: The text of the file when one value is replaced.
        most: So many cases at most, the same ones every time; 0: all of them.
    """

    name: str
    build: Callable[[Path], object]
    file: str
    read: Callable[[Path], object]
    fields: Sequence[tuple[str | int, ...]] = ()
    dump: Callable[[str], str] = str
    most: int = 0

    def cases(self) -> Iterator["Case"]:
        """Every harm, then every field with every value, absent, and with a field beside it that nobody knows."""
        cases = list(self._all_cases())
        yield from random.Random(self.name).sample(cases, self.most) if 0 < self.most < len(cases) else cases

    def _all_cases(self) -> Iterator["Case"]:
        for harm in HARMS:
            yield Case(self, (), harm)
        for field in self.fields:
            for value in (*VALUES, ABSENT, EXTRA):
                yield Case(self, field, value)


@dataclass(frozen=True)
class Case:
    """One harmed artefact."""

    artefact: Artefact
    field: tuple[str | int, ...]
    harm: str

    def __str__(self) -> str:
        return f"{self.artefact.name}: {'.'.join(map(str, self.field)) or 'the whole file'}: {self.harm}"

    @property
    def skipped(self) -> str:
        """Why this machine cannot make the case; empty where it can."""
        if os.name == "nt" and self.harm in NEEDS_POSIX and not self.field:
            return "no such files on Windows"
        if self.harm == "unreadable" and hasattr(os, "geteuid") and os.geteuid() == 0:
            return "root reads everything"
        return ""

    def make(self, folder: Path) -> None:
        """Build the artefact and harm it."""
        self.artefact.build(folder)
        path = folder / self.artefact.file
        if not self.field:
            HARMS[self.harm](path)
            return
        lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".jsonl" else [path.read_text("utf-8")]
        lines[0] = self.artefact.dump(replaced(json.loads(lines[0]), self.field, self.harm))
        _replace(path, "\n".join(lines).encode("utf-8"))

    def run(self, folder: Path) -> str:
        """Make and read; the outcome in a word.

        Raises:
            Exception: Anything but a `UserError`: the case fails.
        """
        self.make(folder)
        try:
            return _read(self, self.artefact.read, folder)
        finally:
            path = folder / self.artefact.file
            if self.harm == "unreadable" and path.exists():
                path.chmod(0o600)


@dataclass(frozen=True)
class Odd:
    """Something odd that was made so, and not harmed afterwards.

    Attributes:
        name: For messages.
        make: Makes it in a folder, which is not there yet.
        read: Reads and uses it; a `UserError` or a return is well.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    skipped = ""

    def __str__(self) -> str:
        return self.name

    def run(self, folder: Path) -> str:
        """As `Case.run`."""
        self.make(folder)
        return _read(self, self.read, folder)


def _read(case: object, read: Callable[[Path], object], folder: Path) -> str:
    try:
        read(folder)
    except UserError as error:
        assert len(str(error)) < 5000, f"{case}: a message of {len(str(error)):,} letters"
        str(error).encode("utf-8")
        return "refused"
    return "read"


def replaced(tree: Any, field: tuple[str | int, ...], value: str) -> str:
    """JSON of `tree` with another value at `field`: one of `VALUES`, absent, or with an unknown key beside it."""
    marker = "\u2603 here"
    place = tree
    for key in field[:-1]:
        place = place[key]
    if value == ABSENT:
        if isinstance(place, list):
            place.pop(int(field[-1]))
        else:
            place.pop(field[-1], None)
    elif value == EXTRA:
        if isinstance(place, list):
            place.append(marker)
        else:
            place[f"{field[-1]}x"] = marker
    else:
        place[field[-1]] = marker
        return json.dumps(tree).replace(json.dumps(marker), VALUES[value])
    return json.dumps(tree)


def sample(artefact: Artefact, count: int) -> list[Case]:
    """The same `count` cases of an artefact every time, files and fields mixed."""
    cases = [case for case in artefact.cases() if not case.skipped]
    return random.Random(artefact.name).sample(cases, min(count, len(cases)))


def hard_links(source: Path, target: Path) -> None:
    """A copy of a folder that costs no bytes; harms replace files and never write into them."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
