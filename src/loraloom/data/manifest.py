"""A prepared dataset on disk.

In and out: a folder with `manifest.jsonl` (one `Example` a line), `dataset.json` (how it was made), `split.json` (which
ids are held out) and the images. What is read is checked: a folder may come from anybody.
"""

import codecs
import hashlib
import json
import os
import stat
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from loraloom.config.prepare import MAX_BATCH_SIZE, MAX_REPEATS, MAX_WEIGHT
from loraloom.data.rows import ExampleRows, stamp_of
from loraloom.protocols.data import Example
from loraloom.utils.atomic_files import write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.reporting import reporter
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import (
    MAX_CONFIG_BYTES,
    MAX_RECORD_BYTES,
    Shown,
    is_there,
    parse_record,
    read_json_object,
    read_lines_at,
    shown,
)

MANIFEST_FILE = "manifest.jsonl"
INFO_FILE = "dataset.json"
SPLIT_FILE = "split.json"
JOURNAL_FILE = ".prepare.jsonl"
PARTS_FOLDER = "parts"
"""Where several machines prepare parts of a dataset, which are joined when all are finished."""

MAX_SIDE_PX = 1 << 16
MAX_PIXELS = 1 << 26
"""Pixels of the largest prepared image, 8192 x 8192: 200 MB as RGB."""
MAX_SOURCE_SIDE_PX = 1 << 24
MAX_IN_MEMORY = 50_000
"""Rows of a manifest that are kept in memory, 1.3 kB each; those of a larger one stay on disk."""
MAX_CAPTIONS = 1000
"""Captions of one image."""
_COLUMNS = fields(Example)
_USUAL = {"repeats": 1, "weight": 1.0, "batch_size": None}
_NO_INFO = (
    f"warning: the dataset has no {INFO_FILE}: its domain is unknown (freetext, unless --domain names it), and its trigger "
    f"word is not recorded; copy {INFO_FILE} too, or run `loraloom prepare` again"
)
_REPAIR = "repair the line or run `loraloom prepare` again"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A prepared dataset.

    Attributes:
        folder: Where it lies; the examples' images are relative to it.
        examples: Sorted by id; a tuple, or of more than `MAX_IN_MEMORY` rows an `ExampleRows`, which reads them from disk.
        info: Settings, format, trigger, versions, counts and time of making; empty when `dataset.json` is missing.
        fingerprint: sha256 over the rows, hex: it changes when any caption, image or split does.
        notes: What is not known of the dataset, one line each for the user.
    """

    folder: Path
    examples: Sequence[Example]
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Sequence[Example]:
        """The examples of `train` or `validation`."""
        if isinstance(self.examples, ExampleRows):
            return self.examples.of_split(name)
        return tuple(example for example in self.examples if example.split == name)

    def path(self, example: Example) -> Path:
        """The prepared image's file."""
        return self.folder / example.image


def row_of(example: Example) -> str:
    """One line of `manifest.jsonl`, without its line end."""
    # `asdict` copies deeply, which took half of the time that reading a manifest takes.
    row = {column.name: getattr(example, column.name) for column in _COLUMNS}
    for name, usual in _USUAL.items():  # rows and fingerprints of datasets without them stay as they are
        if row[name] == usual:
            del row[name]
    if not example.more_captions:
        del row["more_captions"]  # as datasets had it before there were several: their fingerprint stays
    return json.dumps(row, ensure_ascii=False)


def fingerprint_of(examples: Iterable[Example]) -> str:
    """sha256 over the rows, hex."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(row_of(example).encode("utf-8") + b"\n")
    return digest.hexdigest()


def make_manifest(folder: Path, examples: Iterable[Example], info: Mapping[str, Any]) -> Manifest:
    """A manifest with its examples sorted and its fingerprint taken; writes nothing."""
    ordered = tuple(sorted(examples, key=lambda example: example.id))
    return Manifest(folder, ordered, dict(info), fingerprint_of(ordered))


def write_manifest(manifest: Manifest) -> None:
    """Write the three files, `manifest.jsonl` last: a folder that has it is finished."""
    held_out = [example.id for example in manifest.examples if example.split == "validation"]
    write_json(manifest.folder / INFO_FILE, {**manifest.info, "fingerprint": manifest.fingerprint})
    write_json(manifest.folder / SPLIT_FILE, {"validation": held_out})
    write_text(manifest.folder / MANIFEST_FILE, "".join(row_of(example) + "\n" for example in manifest.examples))


def read_manifest(folder: Path) -> Manifest:
    """Read and check a prepared dataset; captions and splits edited by hand are taken as they stand.

    Raises:
        UserError: The folder is missing, not prepared, half prepared, or has a row that cannot be used, or images are
            missing.
    """
    file = folder / MANIFEST_FILE
    if not is_there(file):
        raise _no_manifest(folder)
    if (reader := _Reader(folder, file)).read():
        examples, fingerprint = reader.rows(), reader.digest.hexdigest()
    else:
        examples = tuple(sorted(reader.examples, key=lambda example: example.id))
        fingerprint = fingerprint_of(examples)
    info = _info(folder)
    return Manifest(folder, examples, info, fingerprint, () if info else (_NO_INFO,))


class _Reader:
    """Reads and checks a manifest row by row; of a large one only the places of its rows are kept.

    Attributes:
        examples: The rows, while there are few.
        digest: Hash of the rows in the order of the file.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self.file = folder, file
        self.examples: list[Example] = []
        self.digest = hashlib.sha256()
        self.stamp = (0, 0)
        self._places, self._lengths, self._held_out = array("q"), array("I"), array("b")
        self._missing: list[str] = []
        self._num_missing = 0

    def read(self) -> bool:
        """Read all rows; whether there are too many to keep in memory.

        Raises:
            UserError: A row cannot be used, or images are missing.
        """
        with suppress(OSError):
            self.stamp = stamp_of(self.file.stat())
        lines: dict[str, int] = {}
        previous, prefix = "", f"{self.folder}{os.sep}"
        show, total = reporter().bar("reading the manifest"), self.stamp[0]
        for number, offset, length, line in read_lines_at(self.file, str(self.file)):
            example = _example(line, f"{MANIFEST_FILE} line {number}")
            many = len(self._places) >= MAX_IN_MEMORY
            if many and (self.examples or lines):
                if not _ascends(self.examples):
                    raise _not_sorted(self.file)
                self.examples, lines = [], {}
            if example.id in lines or (many and example.id == previous):
                fix = "remove one of the rows"
                raise UserError(f"{MANIFEST_FILE} line {number} repeats an id", got=shown(example.id), fix=fix)
            if many:
                if example.id < previous:
                    raise _not_sorted(self.file)
            else:
                lines[example.id] = number
                self.examples.append(example)
            self.digest.update(row_of(example).encode("utf-8") + b"\n")
            self._places.append(offset)
            self._lengths.append(length)
            self._held_out.append(example.split == "validation")
            if not _is_file(prefix + example.image):
                self._num_missing += 1
                self._missing += [example.image] if len(self._missing) < 3 else []
            previous = example.id
            if number % 10_000 == 0:
                show(offset, total)
        show(total, total)
        if not self._places:
            raise UserError(f"{self.file} has no rows", fix="run `loraloom prepare` again")
        self._refuse_missing()
        return len(self._places) > MAX_IN_MEMORY

    def rows(self) -> ExampleRows:
        """The rows on disk."""
        with self.file.open("rb") as file:
            first = file.read(3) == codecs.BOM_UTF8
        offsets = np.frombuffer(self._places, np.int64).copy()
        lengths = np.frombuffer(self._lengths, np.uint32).copy()
        if first:
            offsets[0] += 3
            lengths[0] -= 3
        held_out = np.frombuffer(self._held_out, np.int8).astype(np.bool_)
        return ExampleRows(self.file, offsets, lengths, held_out, self.stamp)

    def _refuse_missing(self) -> None:
        if self._num_missing:
            more = f" and {self._num_missing - 3:,} more" if self._num_missing > 3 else ""
            raise UserError(
                f"{self.folder} lacks images that {MANIFEST_FILE} names",
                got=", ".join(str(shown(name)) for name in self._missing) + more,
                fix="run `loraloom prepare` again, or copy the whole folder",
            )


def _is_file(path: str) -> bool:
    """As `utils.untrusted.is_file`, of a text: making a `Path` of it takes longer than asking the disk."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def _ascends(examples: Sequence[Example]) -> bool:
    return all(one.id < two.id for one, two in pairwise(examples))


def _not_sorted(file: Path) -> UserError:
    return UserError(
        f"{file} has more than {MAX_IN_MEMORY:,} rows and is not sorted by id",
        fix="sort its rows by id, as `loraloom prepare` writes them",
    )


def domain_of(folder: Path, wish: str = "auto") -> str:
    """The name of the domain that texts of a prepared dataset are read by: `wish`, or with `auto` what it was prepared as."""
    return str(_info(folder).get("domain", "freetext")) if wish == "auto" else wish


def _no_manifest(folder: Path) -> UserError:
    if not folder.is_dir():
        return UserError(
            "there is no such dataset", got=str(folder), fix="make one: loraloom prepare IMAGES --out DATASET"
        )
    if (folder / JOURNAL_FILE).exists():
        return UserError(f"{folder} is not finished", fix="run the same `loraloom prepare` command again to finish it")
    if (folder / PARTS_FOLDER).is_dir():
        fix = f"put them together: loraloom dataset join IMAGES --out {folder}"
        return UserError(f"{folder} holds parts of a dataset that are not joined", fix=fix)
    return UserError(
        f"{folder} is not a prepared dataset",
        got=f"no {MANIFEST_FILE}",
        fix=f"prepare it first: loraloom prepare {folder} --out DATASET",
    )


def _info(folder: Path) -> dict[str, Any]:
    """What `dataset.json` says; empty when it is missing.

    Raises:
        UserError: It is there, and it does not say as which domain and with which trigger word the dataset was prepared.
    """
    file = folder / INFO_FILE
    if not is_there(file):
        return {}
    info = read_json_object(file, str(file), max_bytes=MAX_RECORD_BYTES, unique_keys=True)
    again = "run `loraloom prepare` again"
    for name, kind, expected in (("settings", dict, "an object"), ("domain", str, "a name"), ("format", str, "a name")):
        if name not in info and name != "format":
            raise UserError(f"{file} has no {name!r}: it is not what `loraloom prepare` writes", fix=again)
        if name in info and not isinstance(info[name], kind):
            raise UserError(f"{file}: {name}", got=shown(info[name]), expected=expected, fix=again)
    if "trigger" not in info["settings"]:
        raise UserError(f"{file} has no 'settings.trigger': it is not what `loraloom prepare` writes", fix=again)
    trigger = info["settings"]["trigger"]
    if not isinstance(trigger, str):
        raise UserError(f"{file}: settings.trigger", got=shown(trigger), expected="a text", fix="repair the file")
    if info.get("trigger", trigger) != trigger:
        got = f"trigger {shown(info['trigger'])}, settings.trigger {shown(trigger)}"
        raise UserError(f"{file} names two trigger words", got=Shown(got), fix="make them equal")
    return info


def _example(line: str, where: str) -> Example:
    """One row, checked field by field."""
    row = parse_record(Example, line, where, fix=_REPAIR)
    if min(row.width, row.height, row.source_width, row.source_height) < 1 or not row.scale > 0:
        raise UserError(f"{where}: sizes and scale must be positive", fix=_REPAIR)
    if max(row.width, row.height) > MAX_SIDE_PX or row.width * row.height > MAX_PIXELS:
        limit = f"sides of at most {MAX_SIDE_PX:,} px, at most {MAX_PIXELS:,} px in all"
        raise UserError(f"{where}: width and height", got=shown((row.width, row.height)), expected=limit, fix=_REPAIR)
    if max(row.source_width, row.source_height) > MAX_SOURCE_SIDE_PX:
        limit = f"at most {MAX_SOURCE_SIDE_PX:,} px"
        got = shown((row.source_width, row.source_height))
        raise UserError(f"{where}: source_width and source_height", got=got, expected=limit, fix=_REPAIR)
    if not (row.scale <= MAX_SIDE_PX and all(abs(edge) <= MAX_SOURCE_SIDE_PX for edge in row.crop)):
        raise UserError(f"{where}: crop or scale is out of range", got=shown((row.crop, row.scale)), fix=_REPAIR)
    if len(row.more_captions) > MAX_CAPTIONS:
        got = f"{len(row.more_captions) + 1:,} captions"
        raise UserError(f"{where}: more_captions", got=got, expected=f"at most {MAX_CAPTIONS}", fix=_REPAIR)
    if row.num_tokens is not None and not 0 <= row.num_tokens <= MAX_CONFIG_BYTES:
        raise UserError(f"{where}: num_tokens", got=shown(row.num_tokens), expected="a count or null", fix=_REPAIR)
    if not 1 <= row.repeats <= MAX_REPEATS:
        raise UserError(f"{where}: repeats", got=shown(row.repeats), expected=f"1 to {MAX_REPEATS:,}", fix=_REPAIR)
    if not 0 < row.weight <= MAX_WEIGHT:
        raise UserError(f"{where}: weight", got=shown(row.weight), expected=f"above 0, to {MAX_WEIGHT:g}", fix=_REPAIR)
    if row.batch_size is not None and not 1 <= row.batch_size <= MAX_BATCH_SIZE:
        got, expected = shown(row.batch_size), f"1 to {MAX_BATCH_SIZE:,}, or null"
        raise UserError(f"{where}: batch_size", got=got, expected=expected, fix=_REPAIR)
    if problem := path_problem(row.image):
        raise UserError(
            f"{where}: image {problem}", got=shown(row.image), fix="only images inside the dataset are read"
        )
    return row
