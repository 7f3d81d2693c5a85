"""Exports of a plan: .svg, .dxf, .geojson, .json, .ifc, .png.

In: a plan, a path and options. Out: a file, whole or not at all, whose format is chosen by the suffix.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from loraloom.utils.atomic_files import write_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import check_file

from ..plan import MOST_ROOMS, Plan
from .drawing import Options

FORMATS = {".svg": "svg", ".dxf": "dxf", ".geojson": "geojson", ".json": "json_file", ".ifc": "ifc", ".png": "png"}
"""Suffix to the module that writes it."""


def writer_of(path: Path) -> Callable[[Plan, Options], bytes]:
    """The function that makes the bytes of a file with that suffix.

    Raises:
        UserError: Unknown suffix, or no file can be written there.
    """
    check_file(path)
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise UserError("unknown export format", got=path.suffix or path.name, expected=" ".join(FORMATS))
    # Formats are imported when used: two of them need libraries that not everybody has.
    return import_module(f".{name}", __name__).as_bytes


def export(plan: Plan, path: Path, options: Options | None = None) -> Path:
    """Write a plan in the format of the path's suffix.

    Args:
        plan: At least one room.
        path: Where to write; an existing file is replaced.
        options: Scale, title and the other settings of an export.

    Returns:
        The path.

    Raises:
        UserError: Unknown suffix, nothing to export, or a missing library (named, with what to install).
    """
    as_bytes = writer_of(path)
    if not plan.rooms:
        raise UserError("there is no room to export", fix="export a plan that has at least one room")
    if len(plan.rooms) > MOST_ROOMS:
        raise UserError("too many rooms to export", got=len(plan.rooms), expected=f"at most {MOST_ROOMS}")
    write_bytes(path, as_bytes(plan, options or Options()))
    return path


__all__ = ["FORMATS", "Options", "export", "writer_of"]
