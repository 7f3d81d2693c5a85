"""Write a plan as our own JSON, which holds all of it, and read it back.

In: a plan. Out: a record (and bytes of a .json) with everything in the JSON truth of `docs`: rooms with polygons,
doors, windows, walls, connections, positions, text, palette, the sum of the image. Back: the labels are rebuilt from
the polygons and read again, so the plan is exactly the one that was written; in an edited file the geometry overrides
the sentences.
"""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from loraloom.utils import untrusted
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError, did_you_mean

from ..plan import Plan, annotate
from ..text.spec import print_spec, spec_of
from ..vision.outlines import Polygon, fill, polygons
from ..vision.scale import CONVENTION, Scale, given
from ..vocabulary import CLASS_NAMES, DOOR, FRONT_DOOR, M_PER_PX, ROOM_TYPES, SIZE_PX, STYLES, WALL, Style
from . import png
from .drawing import Options, Shape, draw

_MAX_BYTES = 8 << 20
_MAX_SHAPES = 4096
_MAX_CORNERS = 100_000
_FARTHEST_PX = 100_000
_MAX_WORDS = 300
_DOORS = (CLASS_NAMES[DOOR], CLASS_NAMES[FRONT_DOOR])


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
                "type": room.id.kind,
                "n": room.id.number,
                **_rings(shape.polygon),
                "bbox": list(room.box),
                "centroid": [round(value, 3) for value in room.centroid],
                "area_px": room.area_px,
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
    }


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


# ------------------------------------------------------------------------------------------------------------- back


def load(path: Path) -> Any:
    """The JSON values of a file that somebody may have edited or sent.

    Raises:
        UserError: It is no regular file, too large, no JSON, or nested too deeply.
    """
    return untrusted.read_json(path, str(path), max_bytes=_MAX_BYTES)


def read_json(path: Path) -> Plan:
    """The plan of a .json that `record` describes.

    Raises:
        UserError: The file is no JSON, or not of this form; the error names the place.
    """
    return parse(load(path), path.name)


def parse(value: Any, name: str = "the record") -> Plan:
    """The plan of a record; see `read_json`."""
    try:
        columns, rows = _size(value["size"], name)
        labels = np.zeros((rows, columns), np.uint8)
        kinds = [(wall, "wall") for wall in value["walls"]]
        kinds += [(room, _known(room["type"], ROOM_TYPES, "room type", name)) for room in value["rooms"]]
        kinds += [(window, "window") for window in value["windows"]]
        kinds += [(door, _known(door["kind"], _DOORS, "kind of door", name)) for door in value["doors"]]
        if len(kinds) > _MAX_SHAPES:
            raise UserError(f"{name} has too many shapes for a plan", got=len(kinds), expected=f"at most {_MAX_SHAPES}")
        left = _MAX_CORNERS
        for item, kind in kinds:
            rings = [item["polygon"], *item.get("holes", ())]
            left -= sum(map(len, rings))
            if left < 0:
                raise UserError(f"{name} has too many corners for a plan", expected=f"at most {_MAX_CORNERS}")
            corners = [[(_coordinate(x), _coordinate(y)) for x, y in ring] for ring in rings]
            labels[fill(corners, (rows, columns))] = CLASS_NAMES.index(kind)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{name} is no floor plan of ours",
            got=f"{type(error).__name__}: {error}"[:200],
            expected="members size, rooms, walls, doors, windows with polygons",
        ) from None
    return annotate(labels)


def _size(value: Any, name: str) -> tuple[int, int]:
    """Columns and rows."""
    sides = cast("list[object]", value if isinstance(value, list) else [value, value])
    whole = [side for side in sides if type(side) is int and 0 < side <= SIZE_PX]
    if len(sides) != 2 or len(whole) != 2:
        raise UserError(f"size out of range in {name}", got=str(sides)[:40], expected=f"1 .. {SIZE_PX}")
    return whole[0], whole[1]


def _known(word: Any, known: tuple[str, ...], what: str, name: str) -> str:
    if word not in known:
        raise UserError(f"unknown {what} in {name}", got=str(word)[:40], fix=did_you_mean(str(word)[:40], known))
    return word


def _coordinate(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _FARTHEST_PX:  # NaN is not
        raise ValueError(f"a corner at {str(value)[:40]}")
    return float(value)


def words_in(value: dict[str, Any], member: str, name: str) -> str | None:
    """A short text of a record; None when it has none. It is written into other files.

    Raises:
        UserError: It is no text, too long, or has characters that cannot be printed.
    """
    words = value.get(member)
    if words is None:
        return None
    if not isinstance(words, str) or len(words) > _MAX_WORDS or not words.isprintable():
        raise UserError(
            f"{member} in {name} is no line of words",
            got=untrusted.shown(words),
            expected=f"at most {_MAX_WORDS} letters, none of them a control character",
        )
    return words


def style_in(value: dict[str, Any], name: str) -> Style:
    """The style that a record, or the truth of a dataset, names; `sjh` when it names none.

    Raises:
        UserError: There is no such style.
    """
    named = value.get("style", value.get("palette"))
    if not isinstance(named, str):
        return STYLES["sjh"]
    return STYLES[_known(named, tuple(STYLES), "style", name)]


def scale_in(value: dict[str, Any], name: str) -> Scale | None:
    """The scale of a record, with its interval; None when it has none.

    Raises:
        UserError: It is no number, or out of range.
    """
    best = value.get("m_per_px")
    if best is None:
        return None
    if not _is_scale(best):
        raise UserError(f"m_per_px out of range in {name}", got=str(best)[:40], expected="0.001 .. 10")
    source, interval = words_in(value, "scale", name), value.get("m_per_px_interval")
    words = source if source is not None else CONVENTION.source if best == M_PER_PX else "given"
    if isinstance(interval, list):
        ends = cast("list[Any]", interval)
        if len(ends) == 2 and all(map(_is_scale, ends)) and ends[0] <= best <= ends[1]:
            return Scale(m_per_px=best, low=ends[0], high=ends[1], source=words)
    return given(best, words)


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0.001 <= value <= 10
