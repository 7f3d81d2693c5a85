"""Read an exported drawing back into pixels: the proof that the export lost nothing.

In: bytes of an .svg, .dxf or .geojson that this package wrote (polygons may have been edited). Out: a map of pixel
classes. Only areas of walls, doors, windows and rooms decide; leaves, panes and captions are decoration.
"""

import json
import re
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from math import isfinite
from typing import Any
from xml.etree import ElementTree

import numpy as np

from loraloom.utils.errors import UserError

from ..vision.outlines import fill
from ..vision.pixels import Labels
from ..vocabulary import CLASS_NAMES, ROOM_TYPES
from .drawing import Spot

_ORDER = (*ROOM_TYPES, "wall", "window", "interior door", "front door")
"""Painting order: later classes are painted over earlier ones where edited areas overlap."""

Area = tuple[str, list[list[Spot]]]
"""Class and rings in pixels."""

_MAX_SIDE_PX = 4096


def _painted(areas: Sequence[Area], size: tuple[int, int]) -> Labels:
    columns, rows = size
    if not (0 < columns <= _MAX_SIDE_PX and 0 < rows <= _MAX_SIDE_PX):
        raise UserError("size of the drawing out of range", got=f"{columns} x {rows}", expected=f"1 .. {_MAX_SIDE_PX}")
    labels = np.zeros((rows, columns), np.uint8)
    for kind, rings in sorted((area for area in areas if area[0] in _ORDER), key=lambda area: _ORDER.index(area[0])):
        # A coordinate that was printed with a few decimals snaps back to its original corner.
        snapped = [[(_snapped(x), _snapped(y)) for x, y in ring] for ring in rings if ring]
        if all(isfinite(value) for ring in snapped for spot in ring for value in spot):
            labels[fill(snapped, (rows, columns))] = CLASS_NAMES.index(kind)
    return labels


def _snapped(value: float) -> float:
    return float(round(value)) if isfinite(value) and abs(value - round(value)) < 0.01 else value


def _refused(kind: str, error: Exception) -> UserError:
    return UserError(f"this is no {kind} that loraloom exported", got=f"{type(error).__name__}: {error}")


def read_svg(data: bytes) -> Labels:
    """(h, w) pixel classes of an exported .svg.

    Raises:
        UserError: It is no such file.
    """
    try:
        root = ElementTree.fromstring(data)
        mm = float(root.attrib["data-mm-per-px"])
        columns, rows = (int(value) for value in root.attrib["data-size"].split())
        areas: list[Area] = []
        for element in root.iter("{http://www.w3.org/2000/svg}path"):
            kind = element.get("data-class")
            if kind:
                rings = [
                    [(float(x) / mm, float(y) / mm) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", part)]
                    for part in element.attrib["d"].split("Z")
                ]
                areas.append((kind, rings))
    except (ElementTree.ParseError, KeyError, ValueError, ZeroDivisionError) as error:
        raise _refused(".svg", error) from None
    return _painted(areas, (columns, rows))


def read_geojson(data: bytes) -> Labels:
    """(h, w) pixel classes of an exported .geojson, from its longitudes and latitudes.

    Raises:
        UserError: It is no such file.
    """
    from .geojson import Plane

    try:
        value: Any = json.loads(data)
        about = value["loraloom"]
        columns, rows = (int(side) for side in about["size"])
        plane = Plane((columns, rows), float(about["m_per_px"]), tuple(about["origin"]), float(about["north"]))
        areas: list[Area] = []
        for feature in value["features"]:
            rings = [
                [plane.pixels((float(x), float(y))) for x, y in ring] for ring in feature["geometry"]["coordinates"]
            ]
            areas.append((feature["properties"]["category"], rings))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _refused(".geojson", error) from None
    return _painted(areas, (columns, rows))


def read_dxf(data: bytes) -> Labels:
    """(h, w) pixel classes of an exported .dxf.

    Raises:
        UserError: It is no such file, or ezdxf is not installed.
    """
    from .dxf import APP, library

    ezdxf = library()
    try:
        document = ezdxf.read(TextIOWrapper(BytesIO(data), "utf-8"))
        known = dict(document.header.custom_vars.properties)
        mm = float(known["LORALOOM_MM_PER_PX"])
        columns, rows = (int(value) for value in known["LORALOOM_SIZE"].split())
        rings: dict[tuple[str, str], list[list[Spot]]] = {}
        for line in document.modelspace().query("LWPOLYLINE"):
            if line.has_xdata(APP):
                kind, room = [str(tag.value) for tag in line.get_xdata(APP) if tag.code == 1000][:2]
                ring = [(float(x) / mm, rows - float(y) / mm) for x, y in line.get_points("xy")]
                rings.setdefault((kind, room), []).append(ring)
    except (ezdxf.DXFError, KeyError, ValueError, UnicodeDecodeError, ZeroDivisionError) as error:
        raise _refused(".dxf", error) from None
    # Rings of one class are filled by the even-odd rule, so holes need no bookkeeping: areas of one class never
    # overlap.
    return _painted([(kind, group) for (kind, _), group in rings.items()], (columns, rows))
