"""Map features: GeoJSON (RFC 7946) with units, openings and walls.

In: a plan and options. Out: bytes of a FeatureCollection. RFC 7946 requires longitude and latitude on WGS 84: the
image's centre lies at `Options.origin` and its upper side is north (turned by `Options.north`); metres become degrees
on the plane that touches the ellipsoid there. Without an origin the centre is 0, 0, and the foreign member `loraloom`
says so. Each feature also carries its rings in local metres (x east, y north of the lower left corner), `local_m`.
"""

import json
from math import cos, radians, sin, sqrt
from typing import Any

from loraloom.utils.errors import UserError

from ..plan import Plan
from ..vision.scale import areas
from .drawing import Options, Shape, Spot, draw

_MAJOR_M, _ECCENTRICITY_2 = 6378137.0, 6.69437999014e-3
"""WGS 84: semi-major axis and squared first eccentricity."""

_FEATURE_TYPES = {"wall": "wall", "interior door": "opening", "front door": "opening", "window": "opening"}


def metres_per_degree(latitude: float) -> tuple[float, float]:
    """East-west and north-south metres per degree at a latitude of WGS 84.

    From the radii of curvature in the prime vertical N = a / sqrt(1 - e^2 sin^2 B) and in the meridian
    M = a (1 - e^2) / (1 - e^2 sin^2 B)^(3/2) (Torge, Geodesy, section 4.1.3): N cos B and M, times pi / 180.
    """
    bend = 1 - _ECCENTRICITY_2 * sin(radians(latitude)) ** 2
    across = _MAJOR_M / sqrt(bend) * cos(radians(latitude))
    along = _MAJOR_M * (1 - _ECCENTRICITY_2) / bend**1.5
    return radians(1) * across, radians(1) * along


class Plane:
    """Pixels of a plan to longitude and latitude and back.

    Args:
        size: Width and height of the plan, pixels.
        m_per_px: Metres per pixel.
        origin: Latitude and longitude of the centre, degrees.
        north: Direction of north, degrees clockwise from the top of the image.

    Raises:
        UserError: The origin is not on earth, or too near a pole for the axes of a plane.
    """

    def __init__(self, size: tuple[int, int], m_per_px: float, origin: tuple[float, float], north: float) -> None:
        latitude, longitude = origin
        if not (-89 <= latitude <= 89 and -180 <= longitude <= 180):
            raise UserError("origin out of range", got=f"{latitude}, {longitude}", expected="-89 .. 89, -180 .. 180")
        self.size, self.m, self.origin = size, m_per_px, origin
        self.east, self.north = metres_per_degree(latitude)
        # North is the direction (sin, cos) of the image's (right, up); east is a quarter turn clockwise from it.
        self.sin, self.cos = sin(radians(north)), cos(radians(north))

    def degrees(self, spot: Spot) -> list[float]:
        """Longitude and latitude, to 1e-9 degrees (0.1 mm)."""
        right, up = (spot[0] - self.size[0] / 2) * self.m, (self.size[1] / 2 - spot[1]) * self.m
        east, north = right * self.cos - up * self.sin, right * self.sin + up * self.cos
        return [round(self.origin[1] + east / self.east, 9), round(self.origin[0] + north / self.north, 9)]

    def pixels(self, place: tuple[float, float]) -> Spot:
        """The inverse of `degrees`."""
        east, north = (place[0] - self.origin[1]) * self.east, (place[1] - self.origin[0]) * self.north
        right, up = east * self.cos + north * self.sin, north * self.cos - east * self.sin
        return right / self.m + self.size[0] / 2, self.size[1] / 2 - up / self.m


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file, UTF-8."""
    rows, columns = plan.labels.shape
    origin = options.origin or (0.0, 0.0)
    plane = Plane((columns, rows), options.scale.m_per_px, origin, options.north or 0.0)
    drawing = draw(plan, options.scale)
    sizes = {area.room: area for area in areas(plan, options.scale)}
    features: list[dict[str, Any]] = []
    for shape in (*drawing.rooms, *drawing.openings, *drawing.walls):
        properties: dict[str, Any] = {"feature_type": _FEATURE_TYPES.get(shape.kind, "unit"), "category": shape.kind}
        if shape.room:
            area = sizes[shape.room]
            properties |= {"name": str(shape.room), "area_m2": round(area.m2, 3)}
            if not options.scale.exact:
                properties["area_m2_interval"] = [round(area.low, 3), round(area.high, 3)]
        if shape.rooms:
            properties["rooms"] = [str(room) for room in shape.rooms]
        properties["local_m"] = [[_local(corner, rows, options) for corner in ring] for ring in _closed(shape)]
        rings = [[plane.degrees(corner) for corner in ring] for ring in _closed(shape)]
        geometry = {"type": "Polygon", "coordinates": rings}
        features.append({"type": "Feature", "id": len(features), "geometry": geometry, "properties": properties})
    note = (
        "centre of the image at the given origin"
        if options.origin
        else "not georeferenced: placed at latitude 0, longitude 0"
    )
    about = {
        "georeferenced": options.origin is not None,
        "note": note,
        "title": options.title,
        "size": [columns, rows],
        "m_per_px": options.scale.m_per_px,
        "scale": options.scale.source,
        "origin": list(origin),
        "north": options.north or 0.0,
    }
    collection = {"type": "FeatureCollection", "loraloom": about, "features": features}
    return (json.dumps(collection, ensure_ascii=False) + "\n").encode()


def _closed(shape: Shape) -> list[tuple[tuple[int, int], ...]]:
    """GeoJSON repeats a ring's first position at its end; outer rings run counter-clockwise as ours do."""
    return [(*ring, ring[0]) for ring in shape.polygon.rings]


def _local(corner: tuple[int, int], rows: int, options: Options) -> list[float]:
    return [round(corner[0] * options.scale.m_per_px, 6), round((rows - corner[1]) * options.scale.m_per_px, 6)]
