"""Rasterise a layout to a map of pixel classes.

In: a `Layout` and its openings. Out: (256, 256) uint8 labels, and whether the annotator's reading of them equals the
plan that the generator placed.
"""

from itertools import combinations

import numpy as np

from ..plan import Plan
from ..vision.pixels import Box, Labels
from ..vocabulary import DOOR, EXTERNAL, FRONT_DOOR, ROOM_TYPES, SIZE_PX, WALL, WINDOW, RoomId
from .grid import CELL_PX, HUB, OUTSIDE, Run
from .openings import Hole, Lines
from .site import Layout

MAX_SIDE_PX = 216
"""Longest side of a plan, walls included, pixels; the longest side of real plans is 213."""


def spread_lines(rng: np.random.Generator, layout: Layout, wall_px: int) -> Lines | None:
    """Pixels of the grid lines: uneven steps of 3 px on average, the plan centred; None when the plan is too large."""
    found: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
    for axis in (1, 0):
        inside = np.nonzero((layout.cells != OUTSIDE).any(axis=1 - axis))[0]
        steps = CELL_PX + rng.choice((-1, 0, 1), layout.cells.shape[axis], p=(0.2, 0.6, 0.2))
        pixels = np.concatenate(([0], np.cumsum(steps))).astype(np.int32)
        low, high = int(pixels[inside[0]]), int(pixels[inside[-1] + 1])
        if high - low > MAX_SIDE_PX - wall_px:
            return None
        # The first wall begins `before` pixels ahead of its line; the whole plan is centred on (128, 128).
        found.append((pixels - (low + high) // 2 + SIZE_PX // 2).astype(np.int32))
    return Lines(found[0], found[1], wall_px)


def rasterise(layout: Layout, lines: Lines, walls: tuple[Run, ...], holes: tuple[Hole, ...]) -> Labels:
    """(256, 256) uint8 pixel classes: rooms, then walls between different owners, then openings."""
    labels = np.full((SIZE_PX, SIZE_PX), EXTERNAL, np.uint8)
    classes = np.array(
        [EXTERNAL, *(ROOM_TYPES.index(kind) + 1 for kind in ("living room", *(kind for _, kind in layout.rooms)))]
    )
    # The margin may extend beyond the image: only the plan's own cells are rasterised.
    rows, columns = (np.flatnonzero((layout.cells != OUTSIDE).any(axis=axis)) for axis in (1, 0))
    rows, columns = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    heights, widths = np.diff(lines.ys)[rows], np.diff(lines.xs)[columns]
    inside = classes.astype(np.uint8)[layout.cells[rows, columns]].repeat(heights, 0).repeat(widths, 1)
    top, left = int(lines.ys[rows.start]), int(lines.xs[columns.start])
    labels[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    for run in walls:
        start, stop = lines.span(run)
        # Beyond both ends by a wall's thickness, so that corners close.
        left, top, right, bottom = lines.box(run, start - lines.wall_px, stop + lines.wall_px)
        labels[top:bottom, left:right] = WALL
    for hole in holes:
        for left, top, right, bottom in hole.boxes:
            labels[top:bottom, left:right] = hole.pixel_class
    return labels


def _boxes(layout: Layout, lines: Lines) -> dict[int, Box]:
    """Interior boxes of all rooms but the hub, by owner."""
    first, last = lines.wall_px - lines.before, -lines.before
    return {
        owner: (
            int(lines.xs[rect.left]) + first,
            int(lines.ys[rect.top]) + first,
            int(lines.xs[rect.right]) + last,
            int(lines.ys[rect.bottom]) + last,
        )
        for owner, (rect, _) in enumerate(layout.rooms, 2)
    }


def agrees(plan: Plan, layout: Layout, lines: Lines, holes: tuple[Hole, ...]) -> bool:
    """Whether the annotator read from the image exactly the rooms, openings and connections that were set."""
    boxes = _boxes(layout, lines)
    names = {HUB: RoomId("living room", 1)}
    numbers: dict[str, int] = {}
    # A rectangle's first pixel is its upper left corner, so the generator can number rooms without the image.
    for owner in sorted(boxes, key=lambda owner: (boxes[owner][1], boxes[owner][0])):
        kind = layout.kind(owner)
        numbers[kind] = numbers.get(kind, 0) + 1
        names[owner] = RoomId(kind, numbers[kind])
    read = {room.id: room.box for room in plan.rooms if room.id != names[HUB]}
    if len(plan.rooms) != len(names) or read != {names[owner]: box for owner, box in boxes.items()}:
        return False
    for pixel_class, kind in ((DOOR, "interior door"), (FRONT_DOOR, "front door"), (WINDOW, "window")):
        placed = {
            (hole.box, frozenset(names[owner] for owner in hole.owners))
            for hole in holes
            if hole.pixel_class == pixel_class
        }
        if placed != {(opening.box, frozenset(opening.rooms)) for opening in plan.openings if opening.kind == kind}:
            return False
    joined = {
        frozenset((names[a], names[b]))
        for hole in holes
        if hole.pixel_class == DOOR
        for a, b in combinations(hole.owners, 2)
    }
    return joined == {frozenset(pair) for pair in plan.connections}
