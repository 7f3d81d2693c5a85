"""Trim the rest of the plot to a living room: thin leftovers are removed, and the hub shrinks to its intended area.

In: a `Site` with all rooms. Out: a `Site` whose hub is one part, everywhere wide enough, about as large as intended.
"""

from dataclasses import replace

import numpy as np

from .grid import HUB, OUTSIDE, Mask, Rect, Run, behind, parts, runs
from .site import PASSAGE, Site, has_slot

TRIMS = 16
"""Number of cuts to try."""

MIN_CUT = 3
"""Smallest depth of a cut, cells: a facade has no smaller steps."""


def _into_leftovers(site: Site, rest: Mask) -> Site:
    """Rooms whose whole side faces a leftover grow into it."""
    cells, rest, rooms = site.cells.copy(), rest.copy(), list(site.rooms)
    for index, (rect, wish) in enumerate(rooms):
        grown = rect
        for side in range(4):
            for _ in range(PASSAGE):
                strip = grown.strips()[side]
                if not rest[strip.where].all() or grown.joined(strip).area > 1.25 * rect.area:
                    break
                grown = grown.joined(strip)
        rooms[index] = grown, wish
        cells[grown.where], rest[grown.where] = index + 2, False
    return replace(site, cells=cells, rooms=tuple(rooms))


def without_leftovers(site: Site) -> Site | None:
    """Give parts of the hub that are too thin or cut off to rooms or to the outside; None when one lies inside."""
    reach = site.reach()
    rest = (site.cells == HUB) & ~reach
    if not rest.any():
        return site
    site = _into_leftovers(site, rest)
    rest = (site.cells == HUB) & ~reach
    numbered, count = parts(rest)
    outside = site.cells == OUTSIDE
    facing = np.zeros(rest.shape, np.bool_)
    facing[1:] |= outside[:-1]
    facing[:-1] |= outside[1:]
    facing[:, 1:] |= outside[:, :-1]
    facing[:, :-1] |= outside[:, 1:]
    if len(np.unique(numbered[facing & rest])) < count:
        return None
    cells = site.cells.copy()
    cells[rest] = OUTSIDE
    return replace(site, cells=cells)


def _cut(rng: np.random.Generator, run: Run, surplus: int) -> Rect:
    """A rectangle of the hub behind its facade `run`: the whole run or one end of it, at most about `surplus` cells."""
    whole = run.length < 2 * PASSAGE or rng.random() < 0.5
    length = run.length if whole else int(rng.integers(PASSAGE, run.length - PASSAGE + 1))
    start = run.start if rng.random() < 0.5 else run.stop - length
    depth = max(MIN_CUT, min(surplus // length, int(rng.integers(MIN_CUT, 22))))
    return behind(run, start, length, depth, HUB)


def _without(site: Site, rect: Rect) -> Site | None:
    """The site with a piece of the hub given to the outside; None when the result breaks a rule."""
    piece = site.cells[rect.where] if min(rect.top, rect.left) > 0 else site.cells[:0]
    if piece.size < rect.area or rect.overlaps(site.core) or (piece != HUB).any():
        return None
    cells = site.cells.copy()
    cells[rect.where] = OUTSIDE
    cut = replace(site, cells=cells)
    reach = cut.reach()
    return cut if (reach == (cells == HUB)).all() and not has_slot(cells) and cut.served(reach) else None


def trimmed(rng: np.random.Generator, site: Site, hub_cells: float) -> Site:
    """The hub cut back at its facade until it is about as large as wished."""
    facade: list[Run] | None = None
    for _ in range(TRIMS):
        surplus = int(np.count_nonzero(site.cells == HUB) - hub_cells)
        if surplus < 0.04 * hub_cells:
            break
        if facade is None:
            facade = [run for run in runs(site.cells) if set(run.owners) == {HUB, OUTSIDE} and run.length >= 4]
            if not facade:
                break
        # Short facades end arms that lead nowhere: these are cut first.
        weights = np.array([run.length**-1.5 for run in facade])
        run = facade[int(rng.choice(len(facade), p=weights / weights.sum()))]
        cut = _without(site, _cut(rng, run, surplus))
        if cut is not None:
            site, facade = cut, None
    return site
