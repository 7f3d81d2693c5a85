"""The coarse grid on which plans are generated, and its operations.

In: small arrays of cells, 3 px a side on average. Out: window counts, openings, straight runs between two owners. Cells
take a ninth of the work of pixels; `rasterising.py` converts them to pixels.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore  # carries no types; `parts` is the one call

CELL_PX = 3
"""Mean side of a cell."""

OUTSIDE, HUB = 0, 1
"""Owners of cells; the hub is the living room, further rooms are numbered from 2."""

Cells = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rect:
    """Cells [top, bottom) x [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Area in cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def where(self) -> tuple[slice, slice]:
        """The rectangle as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def moved(self, down: int, right: int) -> "Rect":
        """The rectangle, shifted."""
        return Rect(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def strips(self, depth: int = 1) -> tuple["Rect", "Rect", "Rect", "Rect"]:
        """The cells just outside of each side: above, below, left, right."""
        return (
            Rect(self.top - depth, self.left, self.top, self.right),
            Rect(self.bottom, self.left, self.bottom + depth, self.right),
            Rect(self.top, self.left - depth, self.bottom, self.left),
            Rect(self.top, self.right, self.bottom, self.right + depth),
        )

    def overlaps(self, other: "Rect") -> bool:
        """Whether two rectangles share a cell."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    def joined(self, other: "Rect") -> "Rect":
        """The smallest rectangle that contains both."""
        return Rect(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A straight piece of wall between two owners.

    Attributes:
        vertical: Whether the wall is vertical, so that it separates left from right.
        line: Number of the grid line on which it lies.
        start: First cell along it.
        stop: One past the last cell along it.
        owners: Owners left and right of it, or above and below it.
    """

    vertical: bool
    line: int
    start: int
    stop: int
    owners: tuple[int, int]

    @property
    def length(self) -> int:
        """Length in cells."""
        return self.stop - self.start


def cells_of(px: float) -> int:
    """A number of pixels in cells, at least one."""
    return max(1, round(px / CELL_PX))


def cells_over(px: float) -> int:
    """The smallest number of cells that contains that number of pixels."""
    return ceil(px / CELL_PX)


def integral(mask: Mask) -> Counts:
    """(h + 1, w + 1) sums over all cells above and left."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    np.cumsum(mask, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def window_counts(sums: Counts, height: int, width: int) -> Counts:
    """(h - height + 1, w - width + 1) number of set cells in each window, from `integral`."""
    high, wide = sums[height:] - sums[:-height], sums.shape[1] - width
    return high[:, width:] - high[:, :wide]


def fits_block(mask: Mask, side: int) -> Mask:
    """(h - side + 1, w - side + 1): whether the `side` x `side` block from each cell on lies within the mask."""
    for _ in range(2):
        # Windows of 1, 2, 4, .. rows, each from two of the one before; the last step overlaps.
        width = 1
        while width < side:
            step = min(width, side - width)
            mask = mask[:-step] & mask[step:]
            width += step
        mask = mask.T
    return mask


def covered(blocks: Mask, side: int) -> Mask:
    """(h + side - 1, w + side - 1): the union of blocks of `side` x `side` that start at the given cells."""
    around = np.ones((blocks.shape[0] + 2 * side - 2, blocks.shape[1] + 2 * side - 2), np.bool_)
    around[side - 1 : 1 - side, side - 1 : 1 - side] = ~blocks
    return ~fits_block(around, side)


def parts(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """4-connected parts: (h, w) numbers from 1, 0 where the mask is not set, and how many there are."""
    numbered, count = ndimage.label(mask)  # pyright: ignore
    return numbered, int(count)  # pyright: ignore


def _runs_of_rows(cells: Cells, vertical: bool) -> list[Run]:
    """Runs on the lines between the rows of `cells`."""
    codes = cells[:-1].astype(np.int32) * 256 + cells[1:]
    codes[cells[:-1] == cells[1:]] = -1
    edges = np.ones((codes.shape[0], codes.shape[1] + 1), np.bool_)
    edges[:, 1:-1] = codes[:, 1:] != codes[:, :-1]
    ys, xs = np.nonzero(edges)
    found: list[Run] = []
    for index in np.nonzero((ys[1:] == ys[:-1]) & (codes[ys[:-1], np.minimum(xs[:-1], codes.shape[1] - 1)] >= 0))[
        0
    ].tolist():
        y, start, stop = int(ys[index]), int(xs[index]), int(xs[index + 1])
        code = int(codes[y, start])
        found.append(Run(vertical, y + 1, start, stop, (code // 256, code % 256)))
    return found


def behind(run: Run, start: int, length: int, depth: int, owner: int) -> Rect:
    """The rectangle on the side of `owner` along `length` cells of a run from `start`, `depth` cells deep."""
    low, high = (run.line - depth, run.line) if run.owners[0] == owner else (run.line, run.line + depth)
    return Rect(start, low, start + length, high) if run.vertical else Rect(low, start, high, start + length)


def runs(cells: Cells) -> list[Run]:
    """Every straight run between two different owners: horizontal walls first, then vertical ones."""
    return _runs_of_rows(cells, False) + _runs_of_rows(np.ascontiguousarray(cells.T), True)
