"""Balconies: rectangles outside of a straight facade.

In: a layout without balconies, with a wide margin of outside. Out: the same with them, and the doors that they get.
"""

from dataclasses import replace
from math import sqrt

import numpy as np

from .grid import CELL_PX, OUTSIDE, Cells, Rect, behind, runs
from .programme import ASPECTS, Programme, RoomWish
from .site import Layout, has_slot

HOSTS = {"living room": 0.42, "kitchen": 0.22, "master room": 0.18, "bedroom": 0.11}
"""Relative frequency of balconies at each room type."""

MIN_FACADE = 10
"""Straight facade that a balcony needs, cells; 30 px."""

DEPTH = 4, 10
"""Smallest and largest depth of a balcony, cells."""

WITHOUT_DOOR = 0.17
"""Share of balconies without a door: in real plans such ledges carry machines."""


def _place(rng: np.random.Generator, layout: Layout, wish: RoomWish, wall_px: int) -> tuple[Rect, int] | None:
    """Rectangle of a balcony and the owner at whose wall it lies."""
    cells = layout.cells
    options = [run for run in runs(cells) if OUTSIDE in run.owners and run.length >= MIN_FACADE]
    hosts = [max(run.owners) for run in options]
    present = sorted({layout.kind(owner) for owner in hosts} & set(HOSTS))
    if not present:
        return None
    weights = np.array([HOSTS[kind] for kind in present])
    longest = sqrt(wish.area_px * ASPECTS["balcony"][2])
    for _ in range(8):
        kind = present[int(rng.choice(len(weights), p=weights / weights.sum()))]
        mine = [(run, owner) for run, owner in zip(options, hosts, strict=True) if layout.kind(owner) == kind]
        run, owner = mine[int(rng.integers(len(mine)))]
        length = min(run.length, round((longest + wall_px) / CELL_PX))
        depth = round((wish.area_px / (length * CELL_PX - wall_px) + wall_px) / CELL_PX)
        start = run.start if rng.random() < 0.5 else run.stop - length
        rect = behind(run, start, length, min(max(depth, DEPTH[0]), DEPTH[1]), OUTSIDE)
        if (cells[rect.where] == OUTSIDE).all() and not has_slot(_with(cells, rect, len(layout.rooms) + 2)):
            return rect, owner
    return None


def _with(cells: Cells, rect: Rect, owner: int) -> Cells:
    cells = cells.copy()
    cells[rect.where] = owner
    return cells


def attach_balconies(rng: np.random.Generator, layout: Layout, programme: Programme) -> Layout | None:
    """The layout with all balconies of the programme; None when one of them found no facade."""
    for wish in programme.balconies:
        found = _place(rng, layout, wish, programme.wall_px)
        if found is None:
            return None
        rect, host = found
        owner = len(layout.rooms) + 2
        doors = () if rng.random() < WITHOUT_DOOR else ((host, owner),)
        cells = _with(layout.cells, rect, owner)
        layout = replace(layout, cells=cells, rooms=(*layout.rooms, (rect, "balcony")), doors=(*layout.doors, *doors))
    return layout
