"""A prepared dataset on disk.

In and out: a folder with `manifest.jsonl` (one `Example` a line), `dataset.json` (how it was made), `split.json` (which
ids are held out) and the pictures. What is read is checked: a folder may come from anybody.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from loraloom.contracts import Example
from loraloom.errors import UserError, did_you_mean
from loraloom.files import write_json, write_text
from loraloom.names import path_problem

MANIFEST_FILE = "manifest.jsonl"
INFO_FILE = "dataset.json"
SPLIT_FILE = "split.json"
JOURNAL_FILE = ".prepare.jsonl"

_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "image": (str,),
    "caption": (str,),
    "caption_found": (str, type(None)),
    "split": (str,),
    "width": (int,),
    "height": (int,),
    "sha256": (str,),
    "source_sha256": (str,),
    "source_width": (int,),
    "source_height": (int,),
    "crop": (list,),
    "scale": (int, float),
    "num_tokens": (int, type(None)),
}
assert list(_TYPES) == [column.name for column in fields(Example)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A prepared dataset.

    Attributes:
        folder: Where it lies; the examples' pictures are relative to it.
        examples: Sorted by id.
        info: Settings, format, trigger, versions, counts and time of making; empty when `dataset.json` is missing.
        fingerprint: sha256 over the rows, hex: it changes when any caption, picture or split does.
    """

    folder: Path
    examples: tuple[Example, ...]
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: str = ""

    def split(self, name: str) -> tuple[Example, ...]:
        """The examples of `train` or `validation`."""
        return tuple(example for example in self.examples if example.split == name)

    def path(self, example: Example) -> Path:
        """The prepared picture's file."""
        return self.folder / example.image


def row_of(example: Example) -> str:
    """One line of `manifest.jsonl`, without its line end."""
    return json.dumps(asdict(example), ensure_ascii=False)


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
        UserError: The folder is missing, not prepared, half prepared, or has a row that cannot be used, or pictures are
            missing.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise _no_manifest(folder)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8", got=f"byte {error.start}", fix="save it as UTF-8") from error
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        example = _example(line, f"{MANIFEST_FILE} line {number}")
        if example.id in lines:
            raise UserError(
                f"{MANIFEST_FILE} line {number} repeats an id", got=example.id, fix="remove one of the rows"
            )
        lines[example.id] = number
        examples.append(example)
    if not examples:
        raise UserError(f"{file} has no rows", fix="run `loraloom prepare` again")
    missing = [example.image for example in examples if not (folder / example.image).is_file()]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise UserError(
            f"{folder} lacks pictures that {MANIFEST_FILE} names",
            got=", ".join(missing[:3]) + more,
            fix="run `loraloom prepare` again, or copy the whole folder",
        )
    examples.sort(key=lambda example: example.id)
    return Manifest(folder, tuple(examples), _info(folder), fingerprint_of(examples))


def domain_of(folder: Path, wish: str = "auto") -> str:
    """The name of the domain that texts of a prepared dataset are read by: `wish`, or with `auto` what it was prepared as."""
    return str(_info(folder).get("domain", "freetext")) if wish == "auto" else wish


def _no_manifest(folder: Path) -> UserError:
    if not folder.is_dir():
        return UserError(
            "there is no such dataset", got=str(folder), fix="make one: loraloom prepare PICTURES --out DATASET"
        )
    if (folder / JOURNAL_FILE).exists():
        return UserError(
            f"{folder} is not finished", fix="run the same `loraloom prepare` again: it goes on where it ended"
        )
    return UserError(
        f"{folder} is not a prepared dataset",
        got=f"no {MANIFEST_FILE}",
        fix=f"prepare it first: loraloom prepare {folder} --out DATASET",
    )


def _info(folder: Path) -> dict[str, Any]:
    file = folder / INFO_FILE
    if not file.is_file():
        return {}
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON", got=str(error), fix="run `loraloom prepare` again") from error
    if not isinstance(info, dict):
        raise UserError(f"{file} is not a JSON object", fix="run `loraloom prepare` again")
    return info


def _example(line: str, where: str) -> Example:
    """One row, checked column by column."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON", got=str(error), fix="repair the line or prepare again") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object", got=type(row).__name__, fix="repair the line or prepare again")
    for column in _TYPES:
        if column not in row:
            raise UserError(f"{where} has no {column!r}", fix="repair the line or run `loraloom prepare` again")
    for column, value in row.items():
        if column not in _TYPES:
            raise UserError(f"{where} has an unknown column", got=str(column), fix=did_you_mean(str(column), _TYPES))
        if not isinstance(value, _TYPES[column]) or isinstance(value, bool):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in _TYPES[column])
            raise UserError(f"{where}: {column}", got=repr(value)[:80], expected=expected, fix="repair the line")
    if row["split"] not in {"train", "validation"}:
        raise UserError(f"{where}: split", got=row["split"], expected="train or validation", fix="repair the line")
    if min(row["width"], row["height"], row["source_width"], row["source_height"]) < 1 or not row["scale"] > 0:
        raise UserError(f"{where}: sizes and scale must be positive", fix="repair the line or prepare again")
    if problem := path_problem(row["image"]):
        raise UserError(f"{where}: image {problem}", got=row["image"], fix="only pictures inside the dataset are read")
    crop = row["crop"]
    if len(crop) != 4 or not all(type(value) is int for value in crop):
        raise UserError(f"{where}: crop", got=str(crop)[:80], expected="four whole numbers", fix="repair the line")
    return Example(**{**row, "crop": tuple(crop)})
