"""The elements of a vector drawing of a plan: shapes, door leaves, window panes, captions; shared by the vector
formats.

In: a plan and `Options`. Out: `Drawing`, all in pixels of the plan (y downwards); each format converts to its own
units.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from ..plan import Plan
from ..vision.outlines import Polygon, fill, polygons, rectangles
from ..vision.pixels import Box
from ..vision.scale import CONVENTION, Scale, areas
from ..vocabulary import CLASS_NAMES, DOOR, FRONT_DOOR, WALL, WINDOW, RoomId

Spot = tuple[float, float]
"""x, y in pixels of the plan."""

_SINGLE_M, _DOUBLE_M = 1.25, 2.4
"""A door up to the first width has one leaf, up to the second two; a wider one slides."""

_MIN_LEAF_PX = 5
"""A shorter doorway gets no leaf: it would be an illegible mark."""

_NAME_EM, _NOTE_EM = 0.66, 0.58
"""Mean width of a character of a wide sans serif, semibold and plain, in font heights."""

NAME_PX, NOTE_PX = 5.4, 4.5
"""Heights of a room's name and of the lines below it; 380 and 315 mm at RPLAN's scale, 3.8 and 3.2 mm on paper at
1:100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of an export.

    Attributes:
        scale: Metres per pixel with its interval.
        title: Title of the plan; empty means "Floor plan".
        style: Key in `STYLES`; gives the colours of .png and .json.
        legend: Whether the .svg lists the room colours.
        north: Direction of north, degrees clockwise from the top of the image; None leaves the mark out.
        origin: Latitude and longitude of the image's centre in degrees, for .geojson; None if not known.
        hatch: Whether walls are hatched in .dxf.
        storey_m: Clear height of the storey in .ifc, metres.
    """

    scale: Scale = CONVENTION
    title: str = "Floor plan"
    style: str = "sjh"
    legend: bool = False
    north: float | None = 0.0
    origin: tuple[float, float] | None = None
    hatch: bool = False
    storey_m: float = 2.8

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", one_line(self.title) or "Floor plan")


def one_line(text: str) -> str:
    """A name that every format can hold: a line end would begin a new record in a .dxf, and XML has no control
    characters."""
    return "".join(_plain(letter) for letter in text).strip()


def _plain(letter: str) -> str:
    if category(letter) in {"Cc", "Zl", "Zp"}:
        return " "
    # UTF-8 cannot encode half of a surrogate pair, and XML cannot hold Unicode's noncharacters.
    return "\ufffd" if category(letter) == "Cs" or ord(letter) & 0xFFFE == 0xFFFE else letter


@dataclass(frozen=True, slots=True)
class Shape:
    """An area of one pixel class.

    Attributes:
        kind: Name of the class.
        polygon: Its outline, pixel corners.
        room: Name of the room; None for another class.
        rooms: Names of the rooms that an opening touches.
    """

    kind: str
    polygon: Polygon
    room: RoomId | None = None
    rooms: tuple[RoomId, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A door leaf, open by 90 degrees: from `hinge` to `tip`; it swings along a quarter circle to `jamb`."""

    hinge: Spot
    tip: Spot
    jamb: Spot


@dataclass(frozen=True, slots=True)
class Pane:
    """A straight line of a window or a sliding door."""

    start: Spot
    stop: Spot
    kind: str


@dataclass(frozen=True, slots=True)
class Caption:
    """Lines of text centred on a spot inside a room.

    Attributes:
        room: Name of the room.
        lines: Lines of text, the name first.
        at: Centre of the block.
        factor: Scale of `NAME_PX` and `NOTE_PX` at which the block fits.
        upright: Whether the text runs upwards, in a narrow room.
    """

    room: RoomId
    lines: tuple[str, ...]
    at: Spot
    factor: float
    upright: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """All elements of a plan; `box` surrounds everything that is not outside."""

    rooms: tuple[Shape, ...]
    walls: tuple[Shape, ...]
    openings: tuple[Shape, ...]
    leaves: tuple[Leaf, ...]
    panes: tuple[Pane, ...]
    captions: tuple[Caption, ...]
    box: Box


def draw(plan: Plan, scale: Scale = CONVENTION) -> Drawing:
    """The elements of a plan's drawing."""
    rooms = tuple(Shape(room.id.kind, polygons(plan.mask(room.id))[0], room.id) for room in plan.rooms)
    walls = tuple(Shape(CLASS_NAMES[WALL], polygon) for polygon in polygons(plan.labels == WALL))
    openings: list[Shape] = []
    leaves: list[Leaf] = []
    panes: list[Pane] = []
    for label in (DOOR, FRONT_DOOR, WINDOW):
        kind = CLASS_NAMES[label]
        found = [opening for opening in plan.openings if opening.kind == kind]
        # Both come from 4-connected components in raster order, so they correspond one by one.
        for opening, polygon in zip(found, polygons(plan.labels == label), strict=True):
            openings.append(Shape(kind, polygon, rooms=opening.rooms))
            for box in opening_boxes(plan, opening.kind, polygon):
                if label == WINDOW:
                    panes += _lines_within(box, kind, (1 / 3, 2 / 3))
                else:
                    _door(plan, box, kind, scale, leaves, panes)
    captions = _captions(plan, scale, leaves)
    ys, xs = np.nonzero(plan.labels)
    box = (
        (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        if len(xs)
        else (0, 0, *plan.labels.T.shape)
    )
    return Drawing(
        rooms=rooms,
        walls=walls,
        openings=tuple(openings),
        leaves=tuple(leaves),
        panes=tuple(panes),
        captions=captions,
        box=box,
    )


def opening_boxes(plan: Plan, kind: str, polygon: Polygon) -> list[Box]:
    """The straight pieces of an opening: one, or more where a blob turns a corner."""
    left, top = (min(axis) for axis in zip(*polygon.outer, strict=True))
    right, bottom = (max(axis) for axis in zip(*polygon.outer, strict=True))
    mask = fill(polygon.rings, plan.labels.shape)[top:bottom, left:right]  # pyright: ignore[reportArgumentType]
    return [(x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in rectangles(mask)]


# ------------------------------------------------------------------------------------------------- doors and windows


def _lines_within(box: Box, kind: str, shares: tuple[float, ...]) -> Iterator[Pane]:
    """Lines along a box's longer side, at shares of its thickness."""
    left, top, right, bottom = box
    for share in shares:
        if right - left >= bottom - top:
            y = top + share * (bottom - top)
            yield Pane((left, y), (right, y), kind)
        else:
            x = left + share * (right - left)
            yield Pane((x, top), (x, bottom), kind)


def _door(plan: Plan, box: Box, kind: str, scale: Scale, leaves: list[Leaf], panes: list[Pane]) -> None:
    """Leaves of a doorway, or the two panels of a sliding door."""
    left, top, right, bottom = box
    flat = right - left >= bottom - top
    length = right - left if flat else bottom - top
    thickness = bottom - top if flat else right - left
    if length < _MIN_LEAF_PX or thickness < 2:
        return
    single = length * scale.m_per_px <= _SINGLE_M
    side = _swing_side(plan, box, flat, length if single else ceil(length / 2))
    if length * scale.m_per_px > _DOUBLE_M or side == 0:
        middle = (left + right) / 2 if flat else (top + bottom) / 2
        first, second = _lines_within(box, kind, (1 / 3, 2 / 3))
        overlap = 0.04 * length
        if flat:
            panes.append(Pane(first.start, (middle + overlap, first.stop[1]), kind))
            panes.append(Pane((middle - overlap, second.start[1]), second.stop, kind))
        else:
            panes.append(Pane(first.start, (first.stop[0], middle + overlap), kind))
            panes.append(Pane((second.start[0], middle - overlap), second.stop, kind))
        return
    face = (bottom if side > 0 else top) if flat else (right if side > 0 else left)
    start, stop = (left, right) if flat else (top, bottom)
    ends = [(start, stop)] if _hinged_at_start(plan, box, flat, side) else [(stop, start)]
    if not single:
        ends = [(start, (start + stop) / 2), (stop, (start + stop) / 2)]
    for hinge, jamb in ends:
        reach = face + side * abs(jamb - hinge)
        spots = (hinge, face), (hinge, reach), (jamb, face)
        leaves.append(Leaf(*spots) if flat else Leaf(*((y, x) for x, y in spots)))


def _swing_side(plan: Plan, box: Box, flat: bool, reach: int) -> int:
    """1 when a leaf of that length opens downwards (or rightwards), -1 when upwards (leftwards), 0 when neither side
    has a room that is deep enough.

    Doors open into the room they belong to: not into the living room, the entrance or a balcony when the other side is
    none of these, else into the smaller one; front doors inwards.
    """
    best: tuple[tuple[bool, int], int] | None = None
    for side in (1, -1):
        inside = _beside(plan.instances, box, flat, side, reach)
        owner = int(np.bincount(inside[0]).argmax()) if inside.size else 0
        if owner == 0 or (inside == owner).mean() < 0.75:
            continue
        room = plan.rooms[owner - 1]
        rank = room.id.kind in ("living room", "entrance", "balcony"), room.area_px
        if best is None or rank < best[0]:
            best = rank, side
    return best[1] if best else 0


def _beside(grid: NDArray[np.uint8], box: Box, flat: bool, side: int, reach: int) -> NDArray[np.uint8]:
    """(reach, length) pixels on one side of a box, the nearest row first; empty where they leave the image."""
    left, top, right, bottom = box
    if not flat:
        grid, left, top, right, bottom = grid.T, top, left, bottom, right
    if side > 0:
        return grid[bottom : bottom + reach, left:right] if bottom + reach <= len(grid) else grid[:0]
    return grid[top - reach : top, left:right][::-1] if top >= reach else grid[:0]


def _hinged_at_start(plan: Plan, box: Box, flat: bool, side: int) -> bool:
    """Whether the room's wall is nearer to the left (upper) end: doors are hinged there so that they open against
    it."""
    left, top, right, bottom = box
    grid = plan.instances if flat else plan.instances.T
    if not flat:
        left, top, right, bottom = top, left, bottom, right
    row = grid[bottom if side > 0 else top - 1]
    room = row[(left + right) // 2]
    before, after = row[:left][::-1] != room, row[right:] != room
    free_before = int(before.argmax()) if before.any() else len(before)
    free_after = int(after.argmax()) if after.any() else len(after)
    return free_before <= free_after


# ------------------------------------------------------------------------------------------------------------ captions


def _captions(plan: Plan, scale: Scale, leaves: list[Leaf]) -> tuple[Caption, ...]:
    swept = np.zeros(plan.labels.shape, np.bool_)
    for leaf in leaves:
        xs, ys = zip(leaf.hinge, leaf.tip, leaf.jamb, strict=True)
        swept[int(min(ys)) : int(max(ys)) + 1, int(min(xs)) : int(max(xs)) + 1] = True
    found: list[Caption] = []
    for room, area in zip(plan.rooms, areas(plan, scale), strict=True):
        name = room.id.kind.capitalize() + (f" {room.id.number}" if plan.counts[room.id.kind] > 1 else "")
        left, top, right, bottom = room.box
        lines = [name, str(area)]
        if scale.exact and room.area_px == (right - left) * (bottom - top):
            lines.append(f"{(right - left) * scale.m_per_px:.2f} × {(bottom - top) * scale.m_per_px:.2f} m")  # noqa: RUF001
        found.append(_placed(room.id, lines, plan.mask(room.id), swept, room.centroid))
    return tuple(found)


def block_size(lines: tuple[str, ...] | list[str], factor: float) -> tuple[float, float]:
    """Width and height in pixels of a caption's block of text."""
    sizes = [NAME_PX, *[NOTE_PX] * (len(lines) - 1)]
    ems = [_NAME_EM, *[_NOTE_EM] * (len(lines) - 1)]
    width = max(len(line) * size * em for line, size, em in zip(lines, sizes, ems, strict=True))
    return width * factor, sum(sizes) * 1.25 * factor


def _placed(
    room: RoomId, lines: list[str], mask: NDArray[np.bool_], swept: NDArray[np.bool_], centroid: Spot
) -> Caption:
    """Where a caption fits: off the door leaves, level rather than upright, as large as can be, near the centroid."""
    for free, upright, factor in product((mask & ~swept, mask), (False, True), (1.0, 0.85, 0.7)):
        for count in range(len(lines), 1, -1):
            at = _fitting(free, _turned(block_size(lines[:count], factor), upright), centroid)
            if at:
                return Caption(room, tuple(lines[:count]), at, factor, upright)
    for factor, count, upright in product((0.7, 0.5), (2, 1), (False, True)):
        at = _fitting(mask, _turned(block_size(lines[:count], factor), upright), centroid)
        if at:
            return Caption(room, tuple(lines[:count]), at, factor, upright)
    ys, xs = np.nonzero(mask)
    nearest = int(((xs - centroid[0]) ** 2 + (ys - centroid[1]) ** 2).argmin())
    return Caption(room, (lines[0],), (float(xs[nearest]) + 0.5, float(ys[nearest]) + 0.5), 0.5, False)


def _turned(size: tuple[float, float], upright: bool) -> tuple[int, int]:
    """Width and height in whole pixels, with a small margin."""
    width, height = ceil(size[0]) + 1, ceil(size[1])
    return (height, width) if upright else (width, height)


def _fitting(free: NDArray[np.bool_], size: tuple[int, int], wish: Spot) -> Spot | None:
    """Centre of a box of that width and height inside the mask, nearest to the wish; None when there is none."""
    width, height = size
    if width > free.shape[1] or height > free.shape[0]:
        return None
    sums = np.pad(free.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    ys, xs = np.nonzero(inside == width * height)
    if len(xs) == 0:
        return None
    cx, cy = xs + width / 2, ys + height / 2
    best = int(((cx - wish[0] - 0.5) ** 2 + (cy - wish[1] - 0.5) ** 2).argmin())
    return float(cx[best]), float(cy[best])
