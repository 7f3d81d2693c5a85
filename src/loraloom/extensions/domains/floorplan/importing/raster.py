# pyright: basic
# scipy has no type annotations.
"""Complete a map of rooms to a plan: walls in the gaps, walls between rooms that touch, an outer shell, doors, windows.

In: pixel classes of rooms and a map of room instances. Out: pixel classes of a plan, as the reader and the annotator know them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..vision.pixels import Box, Labels, box_of, components, dilate
from ..vocabulary import BALCONY, CLASS_NAMES, DOOR, EXTERNAL, ROOM_CLASSES, SIZE_PX, WALL, WINDOW

MOST_GAP_PX = 8
"""A gap between two rooms that is at most this wide is a wall."""
_LIVING, _BATHROOM = CLASS_NAMES.index("living room"), CLASS_NAMES.index("bathroom")
_GROWTH_PX = 4
_THICKEST_WALL_PX = 8


def fill_gaps(labels: Labels, instances: NDArray[np.int32]) -> Labels:
    """Walls where two rooms touch and where a gap between rooms is narrow; other pixels stay."""
    made = labels.copy()
    filled = instances > 0
    reach = MOST_GAP_PX // 2
    closed = ndimage.binary_closing(np.pad(filled, reach), np.ones((2 * reach + 1,) * 2))[reach:-reach, reach:-reach]
    made[(made == EXTERNAL) & closed] = WALL
    for axis in (0, 1):
        first = instances[:-1] if axis == 0 else instances[:, :-1]
        second = instances[1:] if axis == 0 else instances[:, 1:]
        touching = (first != second) & (first > 0) & (second > 0)
        (made[:-1] if axis == 0 else made[:, :-1])[touching] = WALL
        (made[1:] if axis == 0 else made[:, 1:])[touching] = WALL
    return made


def add_shell(labels: Labels, thickness_px: int) -> Labels:
    """A wall of this thickness around everything that is not outside."""
    made = labels.copy()
    made[dilate(labels != EXTERNAL, thickness_px) & (labels == EXTERNAL)] = WALL
    return made


def add_opening(labels: Labels, box: Box, pixel_class: int) -> None:
    """Cut an opening into the wall pixels of a box, through the whole wall: the box grows along its short side."""
    left, top, right, bottom = box
    wide = right - left >= bottom - top
    for _ in range(_GROWTH_PX):
        grown = (left, top - 1, right, bottom + 1) if wide else (left - 1, top, right + 1, bottom)
        ring = np.zeros_like(labels, np.bool_)
        ring[max(0, grown[1]) : grown[3], max(0, grown[0]) : grown[2]] = True
        ring[max(0, top) : bottom, max(0, left) : right] = False
        if not (labels[ring] == WALL).any():
            break
        left, top, right, bottom = grown
    part = labels[max(0, top) : bottom, max(0, left) : right]
    part[part == WALL] = pixel_class


def add_windows(labels: Labels) -> Labels:
    """Windows by the rule of the real images (RPLAN-Toolbox, `decorate.py: add_window`): living rooms get one in each long
    straight run of their outer wall, bathrooms a short one, balconies a wide one, other rooms one in their longest run."""
    made = labels.copy()
    for label, where, mask in components(labels, ROOM_CLASSES):
        room = np.zeros(labels.shape, np.bool_)
        room[where] = mask
        runs = sorted(_outer_runs(labels, room), key=lambda run: (-(run[1] - run[0]), run))
        for start, stop, line, direction in _chosen(label, runs):
            _cut(made, start, stop, line, direction)
    return made


_Run = tuple[int, int, int, int]
"""First and past-last pixel along the wall, the room's last line before it, and the side: 0 up, 1 down, 2 left, 3 right."""


def _chosen(label: int, runs: Sequence[_Run]) -> list[_Run]:
    def middle(run: _Run, length: int) -> _Run:
        start = run[0] + (run[1] - run[0] - length) // 2
        return start, start + length, run[2], run[3]

    sizes = [(run, run[1] - run[0]) for run in runs]
    if label == _LIVING:
        return [middle(run, 24 if size > 36 else 18) for run, size in sizes if size > 27]
    if label == BALCONY:
        return [middle(run, size * 4 // 5) for run, size in sizes if size > 10]
    if label == _BATHROOM:
        return [middle(run, 10) for run, size in sizes[-1:] if size > 10]
    return [middle(run, 18) for run, size in sizes[:1] if size > 27]


def _outer_runs(labels: Labels, room: NDArray[np.bool_]) -> list[_Run]:
    """Straight runs of a room's edge behind whose wall lies the outside."""
    found: list[_Run] = []
    for direction in range(4):
        # Turned so that the outside is above.
        turns = {0: 0, 1: 2, 2: 3, 3: 1}[direction]
        seen, mask = np.rot90(labels, turns), np.rot90(room, turns)
        for row in range(1, SIZE_PX):
            edge = mask[row] & ~mask[row - 1]
            if not edge.any():
                continue
            outer = edge & _outside_above(seen, row)
            padded = np.flatnonzero(np.diff(np.concatenate([[0], outer.astype(np.int8), [0]])))
            found += [(int(a), int(b), row, direction) for a, b in zip(padded[::2], padded[1::2], strict=True)]
    return found


def _outside_above(labels: Labels, row: int) -> NDArray[np.bool_]:
    """Columns where above a row a wall begins and the outside follows within the thickest wall."""
    outside = np.zeros(labels.shape[1], np.bool_)
    wall = labels[row - 1] == WALL
    for step in range(2, _THICKEST_WALL_PX + 2):
        if row - step < 0:
            break
        line = labels[row - step]
        outside |= wall & (line == EXTERNAL)
        wall &= line == WALL
    return outside


def _cut(labels: Labels, start: int, stop: int, line: int, direction: int) -> None:
    """Paint a window through the wall above a line of the turned map."""
    seen = np.rot90(labels, {0: 0, 1: 2, 2: 3, 3: 1}[direction])  # a view: painting it paints the map
    row = line - 1
    while row >= 0 and (seen[row, start:stop] == WALL).all():
        seen[row, start:stop] = WINDOW
        row -= 1


def instances_of(labels: Labels) -> NDArray[np.int32]:
    """(h, w) number of the room of each pixel, 0 where there is none."""
    numbers = np.zeros(labels.shape, np.int32)
    for number, (_, where, mask) in enumerate(components(labels, ROOM_CLASSES), 1):
        numbers[where][mask] = number
    return numbers


def enclosed(labels: Labels, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask whose 4-connected part does not reach the edge of the image."""
    numbers: NDArray[np.int32] = ndimage.label(mask)[0]  # pyright: ignore
    edge = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    return mask & ~np.isin(numbers, np.unique(edge))


def door_boxes(labels: Labels) -> list[Box]:
    """Boxes of the interior doors."""
    return [box_of(where) for _, where, _ in components(labels, (DOOR,))]
