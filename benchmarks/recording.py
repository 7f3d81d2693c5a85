"""Where a benchmark's figures go: strict JSON, of which a value that was not counted is null."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraloom.files import write_text


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write figures as a whole file or not at all, keys in their order; NaN, which is no JSON, becomes null."""
    write_text(path, json.dumps(_strict(record), indent=1, default=float, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
