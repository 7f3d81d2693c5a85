"""Place rooms: they are carved from the plot along its facade, and the rest is the living room.

In: a programme and a random generator. Out: `Layout`, cells with owners, or None when the rooms did not fit.

In real plans nearly every private room is a rectangle on the facade and the living room is the hub between them. So a
core of the hub is reserved first, rooms are placed flush with existing rooms, thin leftovers are given to their
neighbours or to the outside, and the hub is trimmed at the facade to its intended area.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .balconies import attach_balconies
from .footprint import draw_core, draw_footprint
from .grid import CELL_PX, HUB, OUTSIDE, Counts, Mask, Rect, cells_of, integral, window_counts
from .programme import Programme, RoomWish, quantile
from .site import CONTACT, PASSAGE, Layout, Site, has_slot
from .trimming import trimmed, without_leftovers

MARGIN = 17
"""Cells of outside around a finished plot: space for balconies and for checks of their surroundings."""

ROOM_FACADE = 8
"""Facade that a room must have, cells; 24 px, or its shorter side when that is less."""

HUB_TOLERANCE = 0.8, 1.18
"""Smallest and largest area of the hub as a multiple of its intended area."""

_MORE_DOORS = {
    ("master room", "bathroom"): 0.10,
    ("bedroom", "bathroom"): 0.05,
    ("kitchen", "bathroom"): 0.05,
    ("bedroom", "balcony"): 0.08,
    ("master room", "balcony"): 0.08,
    ("kitchen", "balcony"): 0.08,
    ("living room", "balcony"): 0.08,
}
"""Probability that two neighbouring rooms get a door that neither requires."""


def _sizes(rng: np.random.Generator, wish: RoomWish, wall_px: int) -> tuple[int, int]:
    """Height and width in cells, including half a wall on each side."""
    aspect = max(1.0, wish.aspect * rng.uniform(0.85, 1.15))
    short, long = replace(wish, area_px=wish.area_px * rng.uniform(0.91, 1.03), aspect=aspect).sides_px
    sides = max(cells_of(short + wall_px), CONTACT - 1), max(cells_of(long + wall_px), CONTACT + 1)
    return sides if rng.random() < 0.5 else (sides[1], sides[0])


def _along(mask: Mask, height: int, width: int) -> tuple[Counts, Counts, Counts, Counts]:
    """Number of set cells just above, below, left and right of each window that starts at (1, 1) or later."""
    sums = integral(mask)
    rows, columns = window_counts(sums, 1, width), window_counts(sums, height, 1)
    high, wide = mask.shape[0] - height - 1, mask.shape[1] - width - 1
    return (
        rows[:high, 1 : 1 + wide],
        rows[1 + height : 1 + height + high, 1 : 1 + wide],
        columns[1 : 1 + high, :wide],
        columns[1 : 1 + high, 1 + width : 1 + width + wide],
    )


def _scores(
    rng: np.random.Generator, site: Site, wish: RoomWish, size: tuple[int, int], annexe: bool
) -> NDArray[np.float64] | None:
    """Score of a room at each place from (1, 1) on; -inf where it cannot lie; None if it fits nowhere.

    Args:
        rng: Decides between places that the rules score alike.
        site: The plot with the rooms placed so far.
        wish: The room to place.
        size: Height and width, cells.
        annexe: Whether it may extend beyond the plot.
    """
    (height, width), cells = size, site.cells
    free = cells == HUB
    free[site.core.where] = False
    inside: Counts = window_counts(integral(free), height, width)[1:-1, 1:-1]
    fits: Mask = inside == height * width
    if annexe:
        fits = window_counts(integral(free | (cells == OUTSIDE)), height, width)[1:-1, 1:-1] == height * width
    if not fits.any():
        return None
    score: NDArray[np.float64] = rng.random(fits.shape) * 0.5
    score[~fits] = -np.inf
    if annexe:  # prefer places with little of it outside
        score += inside * (2.0 / (height * width))
    core = np.zeros(cells.shape, np.bool_)
    core[site.core.where] = True
    hub, outside, beside = (_along(mask, height, width) for mask in (cells == HUB, cells == OUTSIDE, core))
    reachable = np.zeros(fits.shape, np.bool_)
    facade = np.zeros(fits.shape, np.int32)
    for opening, facing, near, length in zip(hub, outside, beside, (width, width, height, height), strict=True):
        touched = length - opening - facing if annexe else length - opening
        score += (touched >= 0.98 * length) + touched * (0.3 / length) + near * (0.4 / length)
        reachable |= opening >= CONTACT
        facade = np.maximum(facade, facing)
    if wish.kind != "storage":
        score[facade < min(ROOM_FACADE, height, width)] = -np.inf
    if wish.en_suite:
        master = next(index for index, (_, room) in enumerate(site.rooms, 2) if room.kind == "master room")
        score[np.maximum.reduce(_along(cells == master, height, width)) < CONTACT] = -np.inf
    else:
        score[~reachable] = -np.inf
    return score


def _filled(site: Site, rect: Rect) -> Rect:
    """The rectangle with each side pushed to the next wall when the gap is too narrow for a passage."""
    for side in range(4):
        for depth in range(1, PASSAGE + 1):
            if min(rect.top, rect.left) < depth:
                break
            # The outermost line of cells of a strip of this depth.
            line = rect.strips(depth)[side]
            line = (
                replace(line, bottom=line.top + 1),
                replace(line, top=line.bottom - 1),
                replace(line, right=line.left + 1),
                replace(line, left=line.right - 1),
            )[side]
            taken = np.count_nonzero(site.cells[line.where] != HUB)
            if taken == line.area and depth > 1:
                rect = rect.joined(rect.strips(depth - 1)[side])
            if taken or line.overlaps(site.core):
                break
    return rect


def _placed(rng: np.random.Generator, site: Site, wish: RoomWish, wall_px: int) -> Site | None:
    """The site with one more room, at the best place that keeps the hub whole; as an annexe when the plot has no
    place."""
    for annexe in (False, False, True, True):
        height, width = _sizes(rng, wish, wall_px)
        used = site.padded(max(height, width)) if annexe else site
        if height + 2 > used.cells.shape[0] or width + 2 > used.cells.shape[1]:
            continue
        score = _scores(rng, used, wish, (height, width), annexe)
        for _ in range(3 if score is not None else 0):
            assert score is not None
            top, left = divmod(int(score.argmax()), score.shape[1])
            if score[top, left] == -np.inf:
                break
            rect = Rect(top + 1, left + 1, top + 1 + height, left + 1 + width)
            rect = rect if annexe else _filled(site, rect)
            if rect.area <= 1.4 * height * width:
                cells = used.cells.copy()
                cells[rect.where] = len(used.rooms) + 2
                grown = Site(cells, used.core, (*used.rooms, (rect, wish)))
                if grown.served(grown.reach()) and not (annexe and has_slot(cells)):
                    return grown.cropped() if annexe else grown
            score[max(0, top - 3) : top + 4, max(0, left - 3) : left + 4] = -np.inf
    return None


def _plot(rng: np.random.Generator, programme: Programme) -> tuple[Site, float] | None:
    """An empty plot with the hub's core, and the number of cells that the hub should have."""
    wall = programme.wall_px
    hub_cells = (programme.living_px * 0.94 + 3 * wall * programme.living_px**0.5) / CELL_PX**2
    sides = [[side + wall for side in wish.sides_px] for wish in programme.rooms]
    need = sum(short * long for short, long in sides) / CELL_PX**2 + hub_cells
    cells = draw_footprint(rng, need * quantile(rng, (1.0, 1.08, 1.2)))
    core = draw_core(rng, cells, hub_cells)
    return None if core is None else (Site(cells, core), hub_cells)


def _more_doors(rng: np.random.Generator, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Pairs of neighbours that also get a door; which of them are neighbours is known when doors are placed."""
    owners = range(HUB, len(layout.rooms) + 2)
    pairs = [(low, high) for low in owners for high in owners if low != high and (low, high) not in layout.doors]
    return tuple(
        (min(pair), max(pair))
        for pair in pairs
        if rng.random() < _MORE_DOORS.get((layout.kind(pair[0]), layout.kind(pair[1])), 0.0)
    )


def carve(rng: np.random.Generator, programme: Programme) -> Layout | None:
    """One attempt to lay out a programme; None when it did not fit."""
    plot = _plot(rng, programme)
    if plot is None:
        return None
    site, hub_cells = plot
    for wish in programme.rooms:
        grown = _placed(rng, site, wish, programme.wall_px)
        if grown is None:
            return None
        site = grown
    kept = without_leftovers(site)
    if kept is None or has_slot(kept.cells):
        return None
    site = trimmed(rng, kept, hub_cells)
    low, high = HUB_TOLERANCE
    if not low * hub_cells <= np.count_nonzero(site.cells == HUB) <= high * hub_cells:
        return None
    site = site.padded(MARGIN)
    rooms = tuple((rect, wish.kind) for rect, wish in site.rooms)
    master = next(owner for owner, (_, kind) in enumerate(rooms, 2) if kind == "master room")
    doors = tuple(
        (min(master, owner), max(master, owner)) if wish.en_suite else (HUB, owner)
        for owner, (_, wish) in enumerate(site.rooms, 2)
    )
    layout = attach_balconies(rng, Layout(cells=site.cells, rooms=rooms, doors=doors, more_doors=()), programme)
    return None if layout is None else replace(layout, more_doors=_more_doors(rng, layout))
