"""What our own adapter files say of themselves, checked where it is read.

In: the JSON of the metadata key `loraloom`. Out: the record as plain values whose known fields have their type and range.
Fields that this version does not read are kept as they are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from loraloom.errors import UserError
from loraloom.untrusted import parse_json, parse_record, shown

KEY = "loraloom"
"""Metadata key of our own JSON record."""

Text = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base that an adapter was trained on: fields of `contracts.ModelSource`."""

    source: Text = ""
    path: Text | None = None
    revision: Text | None = None
    variant: Text | None = None
    config: Text | None = None
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"


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
    domain: Text = "freetext"
    trigger: Text = ""
    size: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}x[1-9][0-9]{0,4})?$")] | None = None
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
    known = {name: value for name, value in said.items() if name in _KNOWN}
    if isinstance(known.get("base"), dict):
        known["base"] = {name: value for name, value in known["base"].items() if name in _KNOWN_BASE}
    parse_record(AdapterRecord, json.dumps(known), what, fix="get the file again, or train the adapter anew")
    return said
