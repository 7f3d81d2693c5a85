"""The plan as our own JSON, which holds all of it, and back.

In: a plan. Out: a record (and bytes of a .json) with everything of `docs`' JSON truth: rooms with polygons, doors, windows,
walls, connections, positions, text, palette, the sum of the picture. Back: the labels are rebuilt from the polygons and
read again, so the plan is exactly the one that was written; in an edited file geometry wins over what sentences say.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from loraloom.errors import UserError
from loraloom.files import sha256_bytes

from ..outlines import Polygon, fill, polygons
from ..plan import Plan, annotate
from ..spec import print_spec, spec_of
from ..vocabulary import CLASS_NAMES, STYLES, WALL
from . import png
from .drawing import Options, Shape, draw

_MAX_SIDE_PX = 4096


def record(plan: Plan, options: Options | None = None, **extra: Any) -> dict[str, Any]:
    """A plan as JSON values.

    Args:
        plan: Any plan.
        options: Scale, title and style.
        extra: Further members that only the caller knows: `id`, `seed`, `tokens`, `chunks`.
    """
    options = options or Options()
    drawing = draw(plan, options.scale)
    rows, columns = plan.labels.shape
    doors = [_opening(shape) for shape in drawing.openings if shape.kind != "window"]
    windows = [_opening(shape) for shape in drawing.openings if shape.kind == "window"]
    for window in windows:
        del window["kind"]
        window["room"] = window["rooms"][0] if window["rooms"] else None
    palette = STYLES[options.style].colours
    return {
        "format": "loraloom floor plan 1",
        **extra,
        "title": options.title,
        "size": columns if rows == columns else [columns, rows],
        "m_per_px": options.scale.m_per_px,
        "m_per_px_interval": [options.scale.low, options.scale.high],
        "scale": options.scale.source,
        "style": options.style,
        "palette": {name: list(colour) for name, colour in zip(CLASS_NAMES, palette, strict=True)},
        "rooms": [
            {
                "type": room.id.kind, "n": room.id.number, **_rings(shape.polygon), "bbox": list(room.box),
                "centroid": [round(value, 3) for value in room.centroid], "area_px": room.area_px,
                "area_m2": round(room.area_px * options.scale.m_per_px**2, 3),
            }
            for room, shape in zip(plan.rooms, drawing.rooms, strict=True)
        ],
        "doors": doors,
        "windows": windows,
        "walls": [_rings(polygon) for polygon in polygons(plan.labels == WALL)],
        "connections": [[str(room) for room in pair] for pair in plan.connections],
        "positions": [
            {"subject": str(position.subject), "direction": position.direction, "object": str(position.object)}
            for position in plan.positions
        ],
        "text": print_spec(spec_of(plan, options.style)),
        "sha256_png": sha256_bytes(png.as_bytes(plan, options)),
    }  # fmt: skip


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file, UTF-8, one line for each member of a list."""
    members: list[str] = []
    for name, value in record(plan, options).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join("    " + json.dumps(item, ensure_ascii=False) for item in value)  # pyright: ignore
            members.append(f'  "{name}": [\n{lines}\n  ]')
        else:
            members.append(f'  "{name}": {json.dumps(value, ensure_ascii=False)}')
    return ("{\n" + ",\n".join(members) + "\n}\n").encode()


def _rings(polygon: Polygon) -> dict[str, Any]:
    rings: dict[str, Any] = {"polygon": [list(corner) for corner in polygon.outer]}
    return rings | ({"holes": [[list(corner) for corner in ring] for ring in polygon.holes]} if polygon.holes else {})


def _opening(shape: Shape) -> dict[str, Any]:
    xs, ys = zip(*shape.polygon.outer, strict=True)
    box = [min(xs), min(ys), max(xs), max(ys)]
    return {"kind": shape.kind, "bbox": box, "rooms": [str(room) for room in shape.rooms], **_rings(shape.polygon)}


def read_json(path: Path) -> Plan:
    """The plan of a .json that `record` describes.

    Raises:
        UserError: The file is no JSON, or not of this form; says where.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read as JSON", got=str(error)) from None
    return parse(value, path.name)


def parse(value: Any, name: str = "the record") -> Plan:
    """The plan of a record; see `read_json`."""
    try:
        size = value["size"]
        columns, rows = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if not (0 < columns <= _MAX_SIDE_PX and 0 < rows <= _MAX_SIDE_PX):
            raise UserError(f"size out of range in {name}", got=f"{columns} x {rows}", expected=f"1 .. {_MAX_SIDE_PX}")
        labels = np.zeros((rows, columns), np.uint8)
        kinds = [(wall, "wall") for wall in value["walls"]]
        kinds += [(room, room["type"]) for room in value["rooms"]]
        kinds += [(window, "window") for window in value["windows"]]
        kinds += [(door, door["kind"]) for door in value["doors"]]
        for item, kind in kinds:
            rings = [item["polygon"], *item.get("holes", ())]
            corners = [[(float(x), float(y)) for x, y in ring] for ring in rings]
            labels[fill(corners, (rows, columns))] = CLASS_NAMES.index(kind)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{name} is no floor plan of ours", got=f"{type(error).__name__}: {error}",
            expected="members size, rooms, walls, doors, windows with polygons",
        ) from None  # fmt: skip
    return annotate(labels)
