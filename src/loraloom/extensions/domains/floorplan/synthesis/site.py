"""A plot while rooms are carved from it, and the layout that results.

In: cells, the hub's core, rectangles. Out: the checks of every carving step: how far the hub reaches, whether each room
still has a wall for its door, whether the outside forms a slot.
"""

from dataclasses import dataclass

import numpy as np

from .grid import HUB, OUTSIDE, Cells, Mask, Rect, Run, covered, fits_block, parts, runs
from .programme import RoomWish

PASSAGE = 6
"""Smallest width of the hub, cells: 18 px from wall to wall, 1.05 m between them."""

CONTACT = 6
"""Length of wall that two rooms must share for a door between them, cells."""

SLOT = 8
"""Smallest gap between two facades, cells; 1.7 m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Rooms with places.

    Attributes:
        cells: (h, w) uint8 owners: 0 outside, 1 the hub, 2 + i the i-th of `rooms`.
        rooms: Rectangles and types of all rooms but the hub; balconies last.
        doors: Pairs of owners that must get a door, the smaller owner first.
        more_doors: Pairs of owners that get a door if there is space.
    """

    cells: Cells
    rooms: tuple[tuple[Rect, str], ...]
    doors: tuple[tuple[int, int], ...]
    more_doors: tuple[tuple[int, int], ...]

    def walls(self) -> tuple[Run, ...]:
        """Every straight wall between two owners."""
        return tuple(runs(self.cells))

    def kind(self, owner: int) -> str:
        """Room type of an owner other than the outside."""
        return "living room" if owner == HUB else self.rooms[owner - 2][1]


@dataclass(frozen=True, slots=True)
class Site:
    """A plot under construction.

    Attributes:
        cells: (h, w) uint8 owners.
        core: Rectangle that stays with the hub.
        rooms: Rooms placed so far, in order of their owners.
    """

    cells: Cells
    core: Rect
    rooms: tuple[tuple[Rect, RoomWish], ...] = ()

    def padded(self, by: int) -> "Site":
        """The site with that number of additional cells of outside on every side."""
        rooms = tuple((rect.moved(by, by), wish) for rect, wish in self.rooms)
        return Site(np.pad(self.cells, by), self.core.moved(by, by), rooms)

    def cropped(self) -> "Site":
        """Its cells with one cell of outside on every side."""
        used = self.cells != OUTSIDE
        rows, columns = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
        top, left = int(rows[0]) - 1, int(columns[0]) - 1
        rooms = tuple((rect.moved(-top, -left), wish) for rect, wish in self.rooms)
        return Site(self.cells[top : rows[-1] + 2, left : columns[-1] + 2], self.core.moved(-top, -left), rooms)

    def reach(self) -> Mask:
        """The part of the hub that a block as wide as a passage reaches when it slides from the core."""
        blocks = fits_block(self.cells == HUB, PASSAGE)
        numbered, count = parts(blocks)
        start = numbered[self.core.top, self.core.left]
        return covered(numbered == start if count > 1 else blocks, PASSAGE)

    def served(self, reach: Mask) -> bool:
        """Whether every room still has a wall for its door to the hub."""
        return all(
            wish.en_suite or any(np.count_nonzero(reach[strip.where]) >= CONTACT for strip in rect.strips())
            for rect, wish in self.rooms
        )


def has_slot(cells: Cells) -> bool:
    """Whether the outside enters somewhere through a gap narrower than `SLOT`."""
    outside = np.pad(cells == OUTSIDE, SLOT, constant_values=True)
    return bool((covered(fits_block(outside, SLOT), SLOT) != outside).any())
