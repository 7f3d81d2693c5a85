"""What our own adapter files say of themselves, checked where it is read.

In: the JSON of the metadata key `loraloom`. Out: the record as plain values whose known fields have their type and range.
Fields that this version does not read are kept as they are.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from loraloom.config.run import MAX_CLIP_SKIP
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json, parse_record, shown

FORMAT, FULL_FORMAT = "loraloom.adapter.1", "loraloom.full.1"
"""What this version writes and reads."""
_FORMATS = {"", FORMAT, FULL_FORMAT}
KEY = "loraloom"
"""Metadata key of our own JSON record."""

_SIZE = re.compile(r"(?:[1-9][0-9]{0,4}x[1-9][0-9]{0,4})?")
Text = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base that an adapter was trained on: fields of `protocols.model.ModelSource`."""

    source: Text = ""
    path: Text | None = None
    revision: Text | None = None
    variant: Text | None = None
    config: Text | None = None
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    options: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecord:
    """The fields that are read again."""

    format: Text = ""
    family: Text | None = None
    base: BaseRecord | None = None
    base_sha256: Text | None = None
    rank: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    alpha: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    prompt_method: Text = "attention"
    clip_skip: Annotated[int, Field(ge=1, le=MAX_CLIP_SKIP)] | None = None
    domain: Text = "freetext"
    domain_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    trigger: Text = ""
    size: Text | None = None
    step: Annotated[int, Field(ge=0, le=1 << 53)] = 0


_KNOWN = {field.name for field in fields(AdapterRecord)}
_KNOWN_BASE = {field.name for field in fields(BaseRecord)}


def read_record(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Our record in a file's metadata; empty for files of other programs.

    Raises:
        UserError: Not a JSON object, or a field of another type or range; names the first.
    """
    if KEY not in metadata:
        return {}
    what = f"the {KEY} record of {where}"
    said = parse_json(metadata[KEY], what)
    if not isinstance(said, dict):
        raise UserError(f"{what} is not a JSON object", got=shown(said), fix="get the file again")
    form = said.get("format", "")
    if isinstance(form, str) and form not in _FORMATS:
        raise UserError(
            f"{where} is of a format that this version does not know",
            got=shown(form),
            expected=FORMAT,
            fix="it was made by a newer loraloom: update this one, or generate with one of the files in its exports/",
        )
    size = said.get("size")
    if isinstance(size, str) and not _SIZE.fullmatch(size):
        raise UserError(
            f"{what}: size",
            got=shown(size),
            expected="WIDTHxHEIGHT in pixels, such as 512x512",
            fix="get the file again",
        )
    known = {name: value for name, value in said.items() if name in _KNOWN}
    if isinstance(known.get("base"), dict):
        known["base"] = {name: value for name, value in known["base"].items() if name in _KNOWN_BASE}
    parse_record(AdapterRecord, json.dumps(known), what, fix="get the file again, or train the adapter again")
    return said


def relative_base(location: str, run_folder: Path) -> str | None:
    """Where a base on this disk is, as seen from the run folder, `/` between parts; None for a hub id or a built-in one."""
    if not Path(location).exists():
        return None
    try:
        return Path(os.path.relpath(Path(location).resolve(), run_folder.resolve())).as_posix()
    except ValueError:  # another drive
        return Path(location).resolve().as_posix()


def recorded_base(base: Mapping[str, Any], file: Path) -> tuple[str, str | None]:
    """`source` and `config` of a record, as paths that exist where they were paths when the adapter was trained.

    A relative path is looked for from the current folder, then from the folders around the adapter's file, where `path`
    says how the base is reached from the run folder.

    Raises:
        UserError: What is recorded is no name that a file can have.
    """
    folders = [file.resolve().parent, *list(file.resolve().parents)[1:4]]
    found: list[str | None] = []
    for said, reached in ((base["source"], base.get("path")), (base.get("config"), None)):
        places = [folder / name for name in (reached, said) if name for folder in folders]
        try:
            if said and not Path(said).exists():
                said = next((str(place.resolve()) for place in places if place.exists()), said)
        except (OSError, ValueError) as error:  # too long, or a NUL
            why = getattr(error, "strerror", None) or str(error)
            what = f"{file.name} recorded a base that no file or model can be ({why})"
            raise UserError(what, got=shown(said), fix="name the base with --model") from None
        found.append(said)
    return found[0] or "", found[1]
