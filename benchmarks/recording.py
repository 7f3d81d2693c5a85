"""Write a benchmark's figures as strict JSON, with the machine that they were measured on.

A value that was not measured is null.
"""

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraloom.utils.atomic_files import write_text


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write figures as a whole file or not at all, with keys in order; NaN, which is not JSON, becomes null."""
    write_text(path, json.dumps(_strict(record), indent=1, default=float, allow_nan=False) + "\n")


def machine() -> str:
    """CPU model, cores and the vector instructions that torch uses, such as `AMD EPYC, 2 cores, AVX2`."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
