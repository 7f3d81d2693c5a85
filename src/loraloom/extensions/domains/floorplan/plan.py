"""The record of a plan: rooms, openings, which rooms are connected, where each lies; made by the annotator's rule.

In: a map of pixel classes. Out: `Plan`, by the annotator's rule with which the real texts were made (reproduced exactly
on five real pairs):

- rooms are the 4-connected components of a room colour, numbered by the raster order of their first pixels;
- two rooms are connected when both touch the same 4-connected blob of interior-door pixels dilated by a 3x3 square;
- a position is listed when two rooms lie within a Chebyshev distance of 5 px; its direction is the octant of the vector
  between their centroids.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from .vision.pixels import Box, Labels, box_of, components, dilate
from .vocabulary import CLASS_NAMES, DOOR, FRONT_DOOR, M_PER_PX, OFFSETS, ROOM_CLASSES, ROOM_TYPES, WINDOW, RoomId

NEAR_PX = 5
"""Rooms farther apart than this get no position sentence."""

MOST_ROOMS = 255
"""With more rooms the image is no plan: openings and relations are not looked for."""

SOFT_CONTACT_PX = 6
"""A door along a room has at least a dozen pixels of the room nearby; a door that only passes its corner has one to
four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One room.

    Attributes:
        id: Type and number.
        box: Bounding box.
        area_px: Area in pixels.
        centroid: x, y of the mean pixel centre, pixels.
    """

    id: RoomId
    box: Box
    area_px: int
    centroid: tuple[float, float]

    @property
    def area_m2(self) -> float:
        """Area in square metres at RPLAN's scale."""
        return self.area_px * M_PER_PX**2


@dataclass(frozen=True, slots=True)
class Opening:
    """A door or a window: a 4-connected blob of its colour.

    Attributes:
        kind: `interior door`, `front door` or `window`.
        box: Bounding box.
        rooms: The rooms that it touches after dilation by one pixel, in sentence order.
    """

    kind: str
    box: Box
    rooms: tuple[RoomId, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """`subject` is `direction` `object`; in texts by rule the subject has the higher rank."""

    subject: RoomId
    direction: str
    object: RoomId


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A plan as it was read or synthesized.

    Attributes:
        labels: (h, w) uint8 pixel classes.
        instances: (h, w) uint8, 0 where there is no room, else 1 + index into `rooms`.
        rooms: In the order of `RoomId.rank`.
        openings: Interior doors, then front doors, then windows, each in raster order.
        connections: Pairs (lower, higher), sorted.
        positions: Sorted by (object, subject).
    """

    labels: Labels
    instances: NDArray[np.uint8]
    rooms: tuple[Room, ...]
    openings: tuple[Opening, ...]
    connections: tuple[tuple[RoomId, RoomId], ...]
    positions: tuple[Position, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rooms of each type; every type is listed."""
        kinds = [room.id.kind for room in self.rooms]
        return {kind: kinds.count(kind) for kind in ROOM_TYPES}

    def room(self, name: RoomId) -> Room | None:
        """The room with that name."""
        return next((room for room in self.rooms if room.id == name), None)

    def mask(self, name: RoomId) -> NDArray[np.bool_]:
        """(h, w) bool: pixels of a room; all False when there is none of that name."""
        index = next((place for place, room in enumerate(self.rooms) if room.id == name), -1)
        return self.instances == index + 1 if index >= 0 else np.zeros(self.labels.shape, np.bool_)


_SLOPE = sqrt(2) - 1
"""tan(22.5 degrees): where one octant ends and the next begins."""

_WORDS = {offset: word for word, offset in OFFSETS.items()}


def direction(subject: tuple[float, float], origin: tuple[float, float]) -> str:
    """The word for the direction of `subject` seen from `origin`, both (x, y), y downwards.

    A mirrored or turned vector gets the mirrored or turned word: sizes are compared, no angle is rounded (and no vector
    between centroids lies on a border, whose slope is irrational). Two equal points give `right-of`, as atan2 does.
    """
    x, y = subject[0] - origin[0], subject[1] - origin[1]
    if max(abs(x), abs(y)) < 1e-6:
        return "right-of"
    horizontal = 0 if abs(x) < _SLOPE * abs(y) else 1 if x > 0 else -1
    vertical = 0 if abs(y) < _SLOPE * abs(x) else 1 if y > 0 else -1
    return _WORDS[horizontal, vertical]


def _grown(where: tuple[slice, slice], by: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = (
        slice(max(0, part.start - by), min(size, part.stop + by)) for part, size in zip(where, shape, strict=True)
    )
    return rows, columns


def _near_pairs(
    boxes: list[tuple[slice, slice]], solid: list[bool], instances: NDArray[np.uint8], near_px: int, contact_px: int
) -> Iterator[tuple[int, int]]:
    """Pairs of instances (low, high), counted from 0, of which `contact_px` of `high` lie within `near_px` of `low`."""
    spans = np.array([(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in boxes]).reshape(-1, 4)
    gaps = np.maximum(
        np.maximum(spans[:, None, 0], spans[None, :, 0]) - np.minimum(spans[:, None, 1], spans[None, :, 1]),
        np.maximum(spans[:, None, 2], spans[None, :, 2]) - np.minimum(spans[:, None, 3], spans[None, :, 3]),
    )
    for low, high in np.argwhere(np.triu(gaps < near_px, 1)).tolist():
        if contact_px == 1 and solid[low] and solid[high]:
            yield low, high
            continue
        crop = instances[_grown(boxes[low], near_px, instances.shape)]
        if (dilate(crop == low + 1, near_px) & (crop == high + 1)).sum() >= contact_px:
            yield low, high


def annotate(labels: Labels, soft: bool = False, near_px: int = NEAR_PX, contact_px: int = 1) -> Plan:
    """Rooms, openings, connections and positions of a map of pixel classes, by the annotator's rule.

    Args:
        labels: (h, w) uint8 in 0 .. 12.
        soft: Edges may be off by a pixel: an opening also leads to rooms that have at least `SOFT_CONTACT_PX` pixels
            within a distance of 2.
        near_px: Largest Chebyshev distance of two rooms that get a position, pixels.
        contact_px: Number of a room's pixels that must lie within that distance.
    """
    numbers: dict[int, int] = {}
    rooms: list[tuple[Room, tuple[slice, slice], NDArray[np.bool_]]] = []
    for label, where, mask in components(labels, ROOM_CLASSES):
        numbers[label] = numbers.get(label, 0) + 1
        ys, xs = np.nonzero(mask)
        centroid = float(xs.mean()) + where[1].start, float(ys.mean()) + where[0].start
        name = RoomId(CLASS_NAMES[label], numbers[label])
        rooms.append((Room(id=name, box=box_of(where), area_px=len(xs), centroid=centroid), where, mask))
    rooms.sort(key=lambda entry: entry[0].id.rank)
    instances = np.zeros(labels.shape, np.uint8)
    for index, (_, where, mask) in enumerate(rooms[:MOST_ROOMS]):
        instances[where][mask] = index + 1
    names = [room.id for room, _, _ in rooms]
    if len(rooms) > MOST_ROOMS:
        return Plan(labels, instances, tuple(room for room, _, _ in rooms), (), (), ())

    openings: list[Opening] = []
    connected: set[tuple[RoomId, RoomId]] = set()
    for label, where, mask in components(labels, (DOOR, FRONT_DOOR, WINDOW)):
        outer = _grown(where, 2, labels.shape)
        grown = np.zeros((outer[0].stop - outer[0].start, outer[1].stop - outer[1].start), np.bool_)
        top, left = where[0].start - outer[0].start, where[1].start - outer[1].start
        grown[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        contacts = np.bincount(instances[outer][dilate(grown, 1)], minlength=len(names) + 1) > 0
        if soft:
            contacts |= np.bincount(instances[outer][dilate(grown, 2)], minlength=len(names) + 1) >= SOFT_CONTACT_PX
        near = [name for name, contact in zip(names, contacts[1:], strict=True) if contact]
        openings.append(Opening(CLASS_NAMES[label], box_of(where), tuple(near)))
        if label == DOOR:
            connected.update(combinations(near, 2))

    boxes = [where for _, where, _ in rooms]
    solid = [bool(mask.all()) for _, _, mask in rooms]
    positions = tuple(
        Position(names[high], direction(rooms[high][0].centroid, rooms[low][0].centroid), names[low])
        for low, high in (_near_pairs(boxes, solid, instances, near_px, contact_px))
    )
    connections = tuple(sorted(connected, key=lambda pair: (pair[0].rank, pair[1].rank)))
    return Plan(labels, instances, tuple(room for room, _, _ in rooms), tuple(openings), connections, positions)
