"""A prepared dataset on disk.

In and out: a folder with `manifest.jsonl` (one `Example` a line), `dataset.json` (how it was made), `split.json` (which
ids are held out) and the images. What is read is checked: a folder may come from anybody.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from loraloom.protocols.data import Example
from loraloom.utils.atomic_files import write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import (
    MAX_CONFIG_BYTES,
    MAX_RECORD_BYTES,
    Shown,
    is_file,
    is_there,
    parse_record,
    read_json_object,
    read_lines,
    shown,
)

MANIFEST_FILE = "manifest.jsonl"
INFO_FILE = "dataset.json"
SPLIT_FILE = "split.json"
JOURNAL_FILE = ".prepare.jsonl"

MAX_SIDE_PX = 1 << 16
MAX_PIXELS = 1 << 26
"""Pixels of the largest prepared image, 8192 x 8192: 200 MB as RGB."""
MAX_SOURCE_SIDE_PX = 1 << 24
MAX_CAPTIONS = 1000
"""Captions of one image."""
_COLUMNS = fields(Example)
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
        examples: Sorted by id.
        info: Settings, format, trigger, versions, counts and time of making; empty when `dataset.json` is missing.
        fingerprint: sha256 over the rows, hex: it changes when any caption, image or split does.
        notes: What is not known of the dataset, one line each for the user.
    """

    folder: Path
    examples: tuple[Example, ...]
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Example, ...]:
        """The examples of `train` or `validation`."""
        return tuple(example for example in self.examples if example.split == name)

    def path(self, example: Example) -> Path:
        """The prepared image's file."""
        return self.folder / example.image


def row_of(example: Example) -> str:
    """One line of `manifest.jsonl`, without its line end."""
    # `asdict` copies deeply, which took half of the time that reading a manifest takes.
    row = {column.name: getattr(example, column.name) for column in _COLUMNS}
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
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for number, line in read_lines(file, str(file)):
        example = _example(line, f"{MANIFEST_FILE} line {number}")
        if example.id in lines:
            raise UserError(
                f"{MANIFEST_FILE} line {number} repeats an id", got=shown(example.id), fix="remove one of the rows"
            )
        lines[example.id] = number
        examples.append(example)
    if not examples:
        raise UserError(f"{file} has no rows", fix="run `loraloom prepare` again")
    missing = [example.image for example in examples if not is_file(folder / example.image)]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise UserError(
            f"{folder} lacks images that {MANIFEST_FILE} names",
            got=", ".join(str(shown(name)) for name in missing[:3]) + more,
            fix="run `loraloom prepare` again, or copy the whole folder",
        )
    examples.sort(key=lambda example: example.id)
    info = _info(folder)
    return Manifest(folder, tuple(examples), info, fingerprint_of(examples), () if info else (_NO_INFO,))


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
    if problem := path_problem(row.image):
        raise UserError(
            f"{where}: image {problem}", got=shown(row.image), fix="only images inside the dataset are read"
        )
    return row
