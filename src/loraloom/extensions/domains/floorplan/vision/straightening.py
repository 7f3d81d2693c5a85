"""Straighten walls, and extend openings through the whole wall, in a map with ragged edges.

In: a map of pixel classes, 0 .. 12. Out: the same with straight borders (`straight_walls`), its openings one by one
(`openings_of`) and as rectangles through their walls (`through_wall`). The meaning of a plan may change: `reading` takes
the result as the better estimate, `cleaning` checks for changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import DOOR, FRONT_DOOR, NUM_CLASSES, WALL, WINDOW
from .pixels import Labels, Mask, components, dilate

MIN_ROOM_PX = 30
"""A smaller component of a room colour (0.15 m2) is a speck, not a room."""

_MIN_PX = {WALL: 12, DOOR: 15, FRONT_DOOR: 15, WINDOW: 15}
"""Smaller components of these are specks: a few pixels of a thin wall."""

_WALL_MAX_PX = 7
"""Largest thickness of a wall; a part that is wider in both directions is a corner or a crossing."""

_GAP_PX = 4
"""A hole in a wall up to this long is an error: no opening is that short, no room that narrow."""

_CORNER_LIKENESS = 0.45
"""Below one half, because a soft corner is mixed with the rooms around it."""

_STRETCH_PX, _STRETCH_SHARE = 11, 0.62
"""A separate border: over this length, more than this share of its pixels are at one coordinate."""


def without_specks(labels: Labels) -> Labels:
    """Give components that are specks the class of the nearest other pixel."""
    specks = np.zeros(labels.shape, np.bool_)
    for shifted, where, mask in components(labels + 1, range(1, NUM_CLASSES + 1)):  # 0 means "none" there
        if mask.sum() < _MIN_PX.get(shifted - 1, MIN_ROOM_PX):
            specks[where] |= mask
    filled = labels.copy()
    while specks.any() and not specks.all():
        known = ~specks
        for axis, step in ((0, 1), (1, 1), (0, -1), (1, -1)):
            taken = specks & np.roll(known, step, axis)
            # Pixels that wrap around from the other side of the image are no neighbours.
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            taken[tuple(edge)] = False
            filled[taken] = np.roll(filled, step, axis)[taken]
            specks &= ~taken
    return filled


def raggedness(labels: Labels) -> float:
    """Share of straight border runs (between pixels of two classes) that are one or two pixels long, 0 .. 1."""
    short = total = 0
    for grid in (labels, labels.T):
        ahead = np.pad(grid[:, 1:] != grid[:, :-1], ((1, 1), (0, 0)))
        changes = np.flatnonzero((ahead[1:] != ahead[:-1]).T)
        lengths = changes[1::2] - changes[::2]
        short += int((lengths <= 2).sum())
        total += len(lengths)
    return short / total if total else 0.0


# ---------------------------------------------------------------------------------------------------------------- walls


@dataclass
class _Lines:
    """Border lines along one axis: coordinates, and how many pixels of border support each."""

    at: list[int]
    support: list[int]


def _lines(grid: Labels, tolerance: int) -> dict[str, _Lines]:
    """Vertical border lines of a map of rooms, walls and outside, by kind: into a wall, out of one, other.

    Clustering by peaks: the best supported coordinate of a kind absorbs all others of that kind within `tolerance`,
    except those with a separate stretch of border (another wall nearby). The two faces of a wall are of different kinds,
    so they never merge, however thin the wall is.
    """
    left, right = grid[:, :-1], grid[:, 1:]
    into, out = (left != WALL) & (right == WALL), (left == WALL) & (right != WALL)
    kinds = {"into": (into, 3), "out": (out, 3), "other": ((left != right) & ~into & ~out, 6)}
    found: dict[str, _Lines] = {}
    for kind, (border, least) in kinds.items():
        support = border.sum(0)
        sums = np.pad(border.cumsum(0, dtype=np.int32), ((1, 0), (0, 0)))
        stretch = (sums[_STRETCH_PX:] - sums[:-_STRETCH_PX]).max(0, initial=0)
        lines = _Lines([], [])
        for column in np.argsort(-support, kind="stable").tolist():
            if support[column] < least:
                break
            own = stretch[column] > _STRETCH_SHARE * _STRETCH_PX and support[column] >= _STRETCH_PX // 2
            if own or all(abs(column + 1 - other) > tolerance for other in lines.at):
                lines.at.append(column + 1)
                lines.support.append(int(support[column]))
        found[kind] = lines
    return found


def _evened(lines: dict[str, _Lines], size: int, nominal: int) -> tuple[list[int], list[int]]:
    """Coordinates of all lines before and after walls that are one pixel too thin or too thick get the nominal
    thickness. The face with less support moves, unless it would reach another line."""
    before = sorted({0, size, *(at for group in lines.values() for at in group.at)})
    after = list(before)
    out = dict(zip(lines["out"].at, lines["out"].support, strict=True))
    for start, support in zip(lines["into"].at, lines["into"].support, strict=True):
        stop = next((at for at in sorted(out) if at > start), None)
        if stop is None or not 1 <= abs(stop - start - nominal) <= 1:
            continue
        first, last = before.index(start), before.index(stop)
        moved = first if support < out[stop] else last
        target = after[last] - nominal if moved == first else after[first] + nominal
        if 0 < moved < len(after) - 1 and after[moved - 1] < target < after[moved + 1]:
            after[moved] = target
    return before, after


def wall_thickness(shell: Mask) -> int:
    """3 or 5 pixels, whichever is nearer to the median thickness of a mask of walls and openings."""
    if not shell.any():
        return 3
    thickness = np.minimum(_runs(shell), _runs(shell.T).T)[shell]
    return 3 if np.median(thickness) < 4 else 5


def straight_walls(bare: Labels, tolerance: int, thickness: int | None) -> Labels:
    """Give cells between border lines their most common class and close small holes in walls. Walls of nearly `thickness`
    get exactly it; None leaves their thickness unchanged."""
    labels = bare
    for turn in range(2):
        columns = _coordinates(labels, tolerance, thickness)
        rows = _coordinates(labels.T, tolerance, thickness)
        labels = _painted(labels, columns, rows)
        wall = labels == WALL
        bridged = wall | _gaps(wall) | _gaps(wall.T).T
        labels = np.where(bridged, WALL, labels).astype(np.uint8)
        if turn == 0:
            labels = without_specks(labels)
    return labels


def _coordinates(grid: Labels, tolerance: int, nominal: int | None) -> tuple[list[int], list[int]]:
    lines = _lines(grid, tolerance)
    if nominal is not None:
        return _evened(lines, grid.shape[1], nominal)
    at = sorted({0, grid.shape[1], *(at for group in lines.values() for at in group.at)})
    return at, at


def _painted(labels: Labels, columns: tuple[list[int], list[int]], rows: tuple[list[int], list[int]]) -> Labels:
    """Each cell's most common class, painted at the cell's new coordinates."""
    votes = np.stack([labels == label for label in range(WALL + 1)]).astype(np.int32)
    votes = np.add.reduceat(np.add.reduceat(votes, rows[0][:-1], axis=1), columns[0][:-1], axis=2)
    cells = votes.argmax(0).astype(np.uint8)
    return np.repeat(np.repeat(cells, np.diff(rows[1]), axis=0), np.diff(columns[1]), axis=1)


# ------------------------------------------------------------------------------------------------------------- openings


@dataclass
class Segments:
    """Straight pieces of a wall network: their numbers by pixel for horizontal and vertical ones, and the corners."""

    horizontal: NDArray[np.int32]
    vertical: NDArray[np.int32]
    corners: NDArray[np.int32]


def _runs(mask: Mask) -> NDArray[np.intp]:
    """For each pixel of the mask the length of its horizontal run; 0 elsewhere."""
    columns = np.arange(mask.shape[1], dtype=np.intp)
    before = np.maximum.accumulate(np.where(mask, -1, columns), axis=1)
    after = np.minimum.accumulate(np.where(mask, mask.shape[1], columns)[:, ::-1], axis=1)[:, ::-1]
    return np.where(mask, after - before - 1, 0)


def _gaps(wall: Mask) -> Mask:
    """Horizontal holes of at most `_GAP_PX` between two pixels of wall."""
    padded = np.pad(~wall, ((0, 0), (_GAP_PX, _GAP_PX)), constant_values=True)  # the image's border is no wall
    return (~wall) & (_runs(padded) <= _GAP_PX)[:, _GAP_PX:-_GAP_PX]


def segments_of(shell: Mask) -> Segments:
    """The segments of a mask of walls and openings."""
    wide, high = _runs(shell), _runs(shell.T).T
    flat = shell & (high <= _WALL_MAX_PX) & (wide > high)
    steep = shell & (wide <= _WALL_MAX_PX) & (high > wide)
    corner = shell & ~flat & ~steep
    return Segments(*(_numbered(mask) for mask in (flat, steep, corner)))


def _numbered(mask: Mask) -> NDArray[np.int32]:
    """Numbers of the 4-connected components by pixel, 0 outside."""
    numbers = np.zeros(mask.shape, np.int32)
    for number, (_, where, part) in enumerate(components(mask.astype(np.uint8), (1,)), 1):
        numbers[where][part] = number
    return numbers


def openings_of(labels: Labels) -> Iterator[tuple[int, Mask]]:
    """Class and (h, w) mask of each opening; where they overlap the later one wins, so doors come last."""
    for label in (WINDOW, FRONT_DOOR, DOOR):
        for _, where, mask in components(labels, (label,)):
            blob = np.zeros(labels.shape, np.bool_)
            blob[where] = mask
            yield label, blob


def through_wall(blob: Mask, segments: Segments, likeness: NDArray[np.float32] | None = None) -> Mask:
    """An opening as rectangles through the whole thickness of each of its walls.

    Args:
        blob: (h, w) mask of the opening's pixels.
        segments: The segments of the walls.
        likeness: (h, w) from 0 where a pixel has the wall's colour to 1 where it has the opening's. With it, a corner at
            the end of the opening belongs to the opening if it has its colour; without it, if the opening covers half.
    """
    result = np.zeros_like(blob)
    for numbered, turned in ((segments.horizontal, False), (segments.vertical, True)):
        for number in np.unique(numbered[blob]).tolist():
            if number == 0:
                continue
            piece = numbered == number
            source, target, wall = (blob.T, result.T, piece.T) if turned else (blob, result, piece)
            rows = np.flatnonzero(wall.any(1))
            # A pixel beside the wall also counts: straightening may have moved the wall under the opening.
            coverage = source[max(0, rows[0] - 1) : rows[-1] + 2].sum(0) * wall.any(0)
            for start, stop in _stretches(coverage):
                target[rows[0] : rows[-1] + 1, start:stop] |= wall[rows[0] : rows[-1] + 1, start:stop]
    for number in np.unique(segments.corners[blob if likeness is None else dilate(blob, 1)]).tolist():
        if number == 0:
            continue
        corner = segments.corners == number
        if likeness is not None:
            result = result | corner if likeness[corner].mean() >= _CORNER_LIKENESS else result & ~corner
            continue
        share = blob[corner].mean()
        result |= corner if share >= 0.5 else (corner & blob if share >= 0.2 else np.zeros_like(blob))
    return result


def _stretches(coverage: NDArray[np.intp]) -> Iterable[tuple[int, int]]:
    """Runs along a wall with at least half of an opening's usual thickness; gaps of up to two pixels are ignored."""
    present = coverage >= max(1, (np.median(coverage[coverage > 0]) if coverage.any() else 0) / 2)
    apart = ~present
    present |= (_runs(apart[None])[0] <= 2) & apart & present.any()
    changes = np.flatnonzero(np.diff(np.pad(present, 1).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(changes[::2], changes[1::2], strict=True) if b - a >= 3]
