"""Place words on an enlarged plan: in their own room, clear of doors and marks, as large as fits.

In: a plan, its enlargement, the texts of each room, frames already taken. Out: a `Label` for each room, and free
spots for small badges.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan import Plan, Room
from ..vision.pixels import Mask, dilate
from ..vocabulary import RoomId
from .sheet import Frame, Point, width_of

SIZES = (21, 20, 19, 18, 17, 16, 15, 14, 13, 12)
"""Sizes of a room's name, pixels; the lines below it have `NOTE` times that size."""

NOTE = 0.82
_LEADING = 1.28
_PAD = 8
_OVER_WALLS_PX = 4
"""How far a label may leave its room where nothing else fits, pixels of the plan."""


@dataclass(frozen=True, slots=True)
class Label:
    """A block of lines, the first of which is the name.

    Attributes:
        room: Name of the room.
        lines: Lines from top to bottom; from left to right when `upright`.
        size: Size of the name, pixels.
        frame: The block with its padding, pixels of the enlarged plan.
        upright: Whether the text runs upwards.
    """

    room: RoomId
    lines: tuple[str, ...]
    size: int
    frame: Frame
    upright: bool

    @property
    def centre(self) -> Point:
        """Middle of the block."""
        return (self.frame[0] + self.frame[2]) / 2, (self.frame[1] + self.frame[3]) / 2

    def baselines(self) -> Iterator[tuple[Point, str, int, bool]]:
        """Middle of each line, its text, its size in pixels, and whether it is the name."""
        x, y = self.centre
        heights = _heights(self.lines, self.size)
        at = -sum(heights) / 2
        for index, (line, height) in enumerate(zip(self.lines, heights, strict=True)):
            middle = at + height / 2
            at += height
            size = self.size if index == 0 else round(self.size * NOTE)
            yield ((x + middle, y) if self.upright else (x, y + middle)), line, size, index == 0


def _heights(lines: Sequence[str], size: int) -> list[float]:
    return [_LEADING * (size if index == 0 else round(size * NOTE)) for index in range(len(lines))]


def _extent(lines: Sequence[str], size: int) -> tuple[float, float]:
    """Width and height of a block with its padding."""
    widths = [
        width_of(line, size if index == 0 else round(size * NOTE), index == 0) for index, line in enumerate(lines)
    ]
    return max(widths) + 2 * _PAD, sum(_heights(lines, size)) + _PAD


def place_labels(
    plan: Plan, scale: int, texts: Mapping[RoomId, Sequence[tuple[str, ...]]], taken: Iterable[Frame]
) -> dict[RoomId, Label]:
    """A label for each room.

    Args:
        plan: The plan.
        scale: Enlargement: pixels of the enlarged plan per pixel of the plan.
        texts: For each room the variants of its label's lines, the best first.
        taken: Frames that labels must not cover, pixels of the enlarged plan.
    """
    blocked = np.zeros(plan.labels.shape, np.bool_)
    for frame in taken:
        _block(blocked, frame, scale)
    labels: dict[RoomId, Label] = {}
    for room in sorted(plan.rooms, key=lambda room: -room.area_px):
        label = _place(plan, room, texts[room.id], blocked, scale)
        labels[room.id] = label
        _block(blocked, label.frame, scale)
    return labels


def _block(blocked: Mask, frame: Frame, scale: int) -> None:
    left, top, right, bottom = frame
    blocked[
        max(0, int(top // scale)) : max(0, int(-(-bottom // scale))),
        max(0, int(left // scale)) : max(0, int(-(-right // scale))),
    ] = True


class _Area:
    """Pixels of the plan where a label may lie, with what its many sizes are tried against.

    Only the smallest box that holds them is kept: a plan of noise has a hundred rooms of a few pixels each.
    """

    def __init__(self, mask: Mask) -> None:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        self.top, self.left = (int(rows[0]), int(columns[0])) if len(rows) else (0, 0)
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else mask[:0, :0]
        self.mask = mask
        self._sums = np.pad(box.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def spots(self, rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Upper left pixels (rows, columns) of all blocks of rows x columns that lie in the area; None: there is none."""
        sums = self._sums
        if rows >= sums.shape[0] or columns >= sums.shape[1] or rows * columns > sums[-1, -1]:
            return None
        inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
        top, left = np.nonzero(inside == rows * columns)
        return (top + self.top, left + self.left) if len(top) else None


def _place(plan: Plan, room: Room, ways: Sequence[tuple[str, ...]], blocked: Mask, scale: int) -> Label:
    """Place in the room and clear; else in the room; else over its walls; else at its middle, whatever is there."""
    inside = plan.mask(room.id)
    wider = dilate(inside, _OVER_WALLS_PX)
    clear = _Area(inside & ~blocked)
    attempts = [(clear, ways[:1], size, False) for size in SIZES[:5]]
    for area, sizes in ((clear, SIZES), (_Area(inside), SIZES[3:]), (_Area(wider & ~blocked), SIZES[5:])):
        attempts += [(area, ways, size, upright) for size in sizes for upright in (False, True)]
    for area, some, size, upright in attempts:
        for lines in some:
            label = _fitting(area, room, lines, size, upright, scale)
            if label is not None:
                return label
    lines = ways[-1]
    width, height = _extent(lines, SIZES[-1])
    x, y = (room.box[0] + room.box[2]) / 2 * scale, (room.box[1] + room.box[3]) / 2 * scale
    rows, columns = plan.labels.shape
    x = min(max(x, width / 2), columns * scale - width / 2)
    y = min(max(y, height / 2), rows * scale - height / 2)
    return Label(room.id, lines, SIZES[-1], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), False)


def _fitting(area: _Area, room: Room, lines: tuple[str, ...], size: int, upright: bool, scale: int) -> Label | None:
    """The label nearest to the room's middle where its block lies in the area; None when there is none."""
    width, height = _extent(lines, size)
    if upright:
        width, height = height, width
    cells = int(-(-height // scale)), int(-(-width // scale))
    spots = area.spots(*cells)
    if spots is None:
        return None
    rows, columns = spots
    x, y = room.centroid
    if not area.mask[round(y), round(x)]:
        x, y = (room.box[0] + room.box[2]) / 2, (room.box[1] + room.box[3]) / 2
    best = int(((columns + cells[1] / 2 - x - 0.5) ** 2 + (rows + cells[0] / 2 - y - 0.5) ** 2).argmin())
    left = float(columns[best]) * scale + (cells[1] * scale - width) / 2
    top = float(rows[best]) * scale + (cells[0] * scale - height) / 2
    return Label(room.id, lines, size, (left, top, left + width, top + height), upright)


def overlap(first: Frame, second: Frame) -> float:
    """Number of pixels that two frames share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def clearest(candidates: Sequence[Frame], taken: Sequence[Frame], limits: Frame) -> Frame:
    """The first of the frames that overlaps least with taken frames and with the area outside the limits."""

    def cost(frame: Frame) -> float:
        area = (frame[2] - frame[0]) * (frame[3] - frame[1])
        return area - overlap(frame, limits) + sum(overlap(frame, other) for other in taken)

    return min(candidates, key=cost)
