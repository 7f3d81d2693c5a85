"""Rectilinear outlines of masks, rectangles that cover them, and rasterising them again.

In: boolean masks (height, width). Out: rings of (x, y) pixel corners, polygons, boxes; `fill` rasterises rings again.
Both directions are exact: rasterising the outline of a mask gives the same mask.

Vertices are integer pixel corners: pixel (x, y) is the square from (x, y) to (x + 1, y + 1), y downwards.
"""

from collections.abc import Iterable, Sequence
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from .pixels import Box, Mask, components

Point = tuple[int, int]
Ring = tuple[Point, ...]
"""Corners of a closed line, the first not repeated at the end."""


class Polygon(NamedTuple):
    """A 4-connected area.

    Attributes:
        outer: Outer ring, counter-clockwise as seen on the image (so also in coordinates whose y axis points up).
        holes: Rings of the holes, clockwise as seen on the image.
    """

    outer: Ring
    holes: tuple[Ring, ...]

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The outer ring, then the holes."""
        return (self.outer, *self.holes)


def outline(mask: Mask) -> list[Ring]:
    """Rings of every 4-connected component: its outer ring, then its holes.

    Args:
        mask: (h, w) bool.

    Returns:
        Simple rings (none visits a corner twice). Components that touch only at a corner have separate outlines; a
        component that touches itself at a corner has a hole that touches its outer ring there. Components are in
        raster order of their first pixels.
    """
    return [ring for polygon in polygons(mask) for ring in polygon.rings]


def polygons(mask: Mask) -> list[Polygon]:
    """One polygon for each 4-connected component, in raster order of their first pixels."""
    found: list[Polygon] = []
    for _, (rows, columns), part in components(mask.astype(np.uint8), (1,)):
        rings = _trace(part, columns.start, rows.start)
        rings.sort(key=_signed_area)  # one ring is counter-clockwise on the image: negative where y points down
        found.append(Polygon(rings[0], tuple(sorted(rings[1:], key=lambda ring: (ring[0][1], ring[0][0])))))
    return found


def _signed_area(ring: Ring) -> float:
    """Shoelace formula in image coordinates: positive is clockwise on the image."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)) / 2


def _trace(mask: Mask, left: int, top: int) -> list[Ring]:
    """All boundary rings of one component, shifted by (left, top), with the inside on the left."""
    padded = np.pad(mask, 1)
    here = padded[1:-1, 1:-1]
    # A unit edge starts at a corner (x, y) and has a direction; each side of a pixel that faces outside gives one.
    sides = (
        (here & ~padded[:-2, 1:-1], (1, 0), (-1, 0)),  # upper side, leftwards
        (here & ~padded[1:-1, :-2], (0, 0), (0, 1)),  # left side, downwards
        (here & ~padded[2:, 1:-1], (0, 1), (1, 0)),  # lower side, rightwards
        (here & ~padded[1:-1, 2:], (1, 1), (0, -1)),  # right side, upwards
    )
    leaving: dict[Point, list[Point]] = {}
    for side, (dx, dy), step in sides:
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(side)), strict=True):
            leaving.setdefault((x + dx, y + dy), []).append(step)
    rings: list[Ring] = []
    for start in sorted(leaving, key=lambda corner: (corner[1], corner[0])):
        while leaving[start]:
            rings.append(_walk(leaving, start, left, top))
    return rings


def _walk(leaving: dict[Point, list[Point]], start: Point, left: int, top: int) -> Ring:
    """Follow unit edges from a corner back to itself, using them up; only corners where the line turns are kept."""
    corners: list[Point] = []
    at, step = start, leaving[start].pop()
    first = step
    while True:
        at = at[0] + step[0], at[1] + step[1]
        if at == start:
            break
        ways = leaving[at]
        # Where four pixels form a checkerboard, both inner ones belong to one component (other components are traced
        # separately). Turning right crosses to the other pixel, so the two outer ones are on different, simple rings.
        right = -step[1], step[0]
        following = right if right in ways else ways[0]
        ways.remove(following)
        if following != step:
            corners.append((at[0] + left, at[1] + top))
        step = following
    if first != step:
        corners.insert(0, (start[0] + left, start[1] + top))
    return tuple(corners)


def fill(rings: Iterable[Sequence[tuple[float, float]]], shape: tuple[int, int]) -> Mask:
    """Pixels whose centres lie inside by the even-odd rule.

    Args:
        rings: Closed lines in pixel coordinates; any angles, any real coordinates, also outside the image.
        shape: Height and width of the mask.

    Returns:
        (h, w) bool. Outer rings and holes may be given in any order and direction.
    """
    height, width = shape
    toggles = np.zeros((height, width + 1), np.bool_)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, (*ring[1:], ring[0]), strict=True):
            if y0 == y1:
                continue
            if y0 > y1:
                (x0, y0), (x1, y1) = (x1, y1), (x0, y0)
            # Rows whose centre y + 0.5 lies in [y0, y1): half-open, so that a vertex is never counted twice.
            rows = np.arange(max(0, ceil(y0 - 0.5)), min(height, ceil(y1 - 0.5)))
            crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
            toggles[rows, columns] ^= True
    return np.logical_xor.accumulate(toggles[:, :-1], axis=1)


def rectangles(mask: Mask) -> list[Box]:
    """Disjoint boxes whose union is the mask, long ones first: converts a network of walls to straight walls.

    Greedy: repeatedly takes the longest box that still fits (ties: the larger area, then raster order). Works on the
    grid of the mask's corner coordinates, so the cost depends on corners, not on pixels.

    Args:
        mask: (h, w) bool.

    Returns:
        left, top, right, bottom in pixels, the last two exclusive.
    """
    if not mask.any():
        return []
    padded = np.pad(mask, 1)
    ys = np.flatnonzero((padded[1:] != padded[:-1]).any(1))
    xs = np.flatnonzero((padded[:, 1:] != padded[:, :-1]).any(0))
    left = mask[np.ix_(ys[:-1], xs[:-1])].copy()
    found: list[Box] = []
    while left.any():
        best = max(_candidates(left, xs.tolist(), ys.tolist()))
        top, first, bottom, last = best[2:]
        left[-top:bottom, -first:last] = False
        found.append((int(xs[-first]), int(ys[-top]), int(xs[last]), int(ys[bottom])))
    return found


def _candidates(cells: Mask, xs: list[int], ys: list[int]) -> Iterable[tuple[int, int, int, int, int, int]]:
    """Maximal boxes of cells as (longer side px, area px, -top, -left, bottom, right), the last four in cells."""
    rows, columns = cells.shape
    for top in range(rows):
        for first in range(columns):
            if not cells[top, first]:
                continue
            stop: float = inf
            for bottom in range(top, rows):
                row = cells[bottom, first:]
                if not row[0]:
                    break
                width = int(row.argmin()) or len(row)
                stop = min(stop, first + width)
                wide, high = xs[int(stop)] - xs[first], ys[bottom + 1] - ys[top]
                yield max(wide, high), wide * high, -top, -first, bottom + 1, int(stop)
