"""Tidy a plan that was read from a drawn picture, without changing what it says.

In: a map of pixel classes, or the plan read from it. Out: a map of pixel classes in which specks are gone, walls and room
borders are straight, walls have an even thickness and openings are rectangles through the whole wall.

The promise: every room that is no speck, every connection (through a door that is no speck) and every position that was
read before is read afterwards, and so are the rooms with windows and front doors. No room and no connection comes; a
position may. Steps are tried from the strongest form to the weakest and count only when the plan reads like that; when
none does, the labels stay as they were. A plan without ragged edges is returned unchanged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pixels import Labels, Mask, components, dilate
from .plan import NEAR_PX, Plan, annotate
from .vocabulary import CLASS_NAMES, DOOR, FRONT_DOOR, NUM_CLASSES, WALL, WINDOW, RoomId

MIN_ROOM_PX = 30
"""A smaller component of a room colour (0.15 m2) is a speck, not a room."""

_MIN_PX = {WALL: 12, DOOR: 15, FRONT_DOOR: 15, WINDOW: 15}
"""Smaller components of these are specks: a few pixels of a thin wall."""

_WALL_MAX_PX = 7
"""No wall is thicker; what is wider in both directions is a corner or a crossing."""

_GAP_PX = 4
"""A hole in a wall up to this long is a bite: no opening is that short, no room that narrow."""

_MAX_PARTS = 64
"""A picture with more rooms or more openings than this is no plan but noise, and stays as it is."""

_MIDDLE_PX = 4
"""Walls that a rough picture shows between 3 and 5 pixels: at 5 the rooms beside a wall are too far apart for a position
sentence, at 3 rooms across a corner may come near enough for one."""

_STRETCH_PX, _STRETCH_SHARE = 11, 0.62
"""A border of its own: on this length more than this share of its pixels lie at one coordinate."""

_RAGGED = 0.10
"""Share of border runs of one or two pixels above which a plan is ragged; clean plans, real ones too, have up to 0.08."""


def clean(plan: Plan | Labels) -> Labels:
    """Tidy up a plan; see the module's promise.

    Args:
        plan: A plan, or its (h, w) uint8 pixel classes.

    Returns:
        New (h, w) uint8 pixel classes. Room numbers stay as they are unless a speck had taken one.
    """
    original = plan.labels if isinstance(plan, Plan) else plan
    before = plan if isinstance(plan, Plan) else annotate(original)
    if sum(room.area_px >= MIN_ROOM_PX for room in before.rooms) > _MAX_PARTS:
        return original.copy()
    labels, reference = original, before
    filled = without_specks(original)
    if (filled != original).any():
        reading = annotate(filled)
        if _only_specks_went(before, reading):
            labels, reference = filled, reading
    if raggedness(labels) <= _RAGGED:
        return labels.copy()
    blobs = list(_blobs(labels))
    if len(blobs) > _MAX_PARTS or len(reference.rooms) > _MAX_PARTS:
        return labels.copy()
    bare = np.where(labels >= WALL, WALL, labels).astype(np.uint8)
    own = wall_thickness(bare == WALL)
    attempts: list[Labels] = []
    for tolerance, thickness in ((3, own), (3, _MIDDLE_PX), (2, own), (1, None)):
        attempts.append(_straight(bare, tolerance, thickness))
        tidy = _with_openings(attempts[-1], blobs, reference)
        if tidy is not None:
            return tidy
    for walls in attempts[:2]:
        tidy = _rough_where_needed(walls, blobs, reference)
        if tidy is not None:
            return tidy
    tidy = _with_openings(bare, blobs, reference)
    return labels.copy() if tidy is None else tidy


# ------------------------------------------------------------------------------------------------- what must not change


def _matched(before: Plan, after: Plan, least_px: int = 0) -> dict[RoomId, RoomId] | None:
    """New name of each old room of at least `least_px`; None unless each lies on mostly its old place, is of its old
    type, and no other room has come."""
    names: dict[RoomId, RoomId] = {}
    for room in before.rooms:
        if room.area_px < least_px:
            continue
        votes = np.bincount(after.instances[before.mask(room.id)], minlength=len(after.rooms) + 1)
        votes[0] = 0
        place = int(votes.argmax())
        if 2 * votes[place] < room.area_px or after.rooms[place - 1].id.kind != room.id.kind:
            return None
        names[room.id] = after.rooms[place - 1].id
    found = set(names.values())
    return names if len(found) == len(names) == len(after.rooms) else None


def _only_specks_went(before: Plan, after: Plan) -> bool:
    """Whether every room that is no speck and every position between two of them is still there. (Connections are: what
    is no speck keeps its pixels, so every door that is none touches what it touched.)"""
    names = _matched(before, after, MIN_ROOM_PX)
    if names is None:
        return False
    known = {(position.subject, position.direction, position.object) for position in after.positions}
    return all(
        (names[position.subject], position.direction, names[position.object]) in known
        for position in before.positions
        if position.subject in names and position.object in names
    )


def _same(before: Plan, after: Plan) -> bool:
    """Whether two plans of one picture say the same: the same rooms under the same names, the same connections, at least the
    same positions, the same rooms with windows and with front doors."""
    names = _matched(before, after)
    if names is None or any(old != new for old, new in names.items()):
        return False
    return (
        before.connections == after.connections
        and {*before.positions} <= {*after.positions}
        and _outer_openings(before) == _outer_openings(after)
    )


def _outer_openings(plan: Plan) -> set[tuple[str, RoomId]]:
    return {
        (opening.kind, room) for opening in plan.openings if opening.kind != CLASS_NAMES[DOOR] for room in opening.rooms
    }


# ---------------------------------------------------------------------------------------------------------------- specks


def without_specks(labels: Labels) -> Labels:
    """Components that are too small to mean anything take the class of the nearest pixel that is none of them."""
    specks = np.zeros(labels.shape, np.bool_)
    for shifted, where, mask in components(labels + 1, range(1, NUM_CLASSES + 1)):  # 0 would count as nothing there
        if mask.sum() < _MIN_PX.get(shifted - 1, MIN_ROOM_PX):
            specks[where] |= mask
    filled = labels.copy()
    while specks.any() and not specks.all():
        known = ~specks
        for axis, step in ((0, 1), (1, 1), (0, -1), (1, -1)):
            taken = specks & np.roll(known, step, axis)
            # What comes round from the far side of the picture is no neighbour.
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
    """Vertical border lines of a map of rooms, walls and outside, by what they do: into a wall, out of one, other.

    Clustering by peaks: the best supported coordinate of a kind takes all others of that kind within `tolerance`, except
    those that hold a stretch of border of their own (another wall, a little aside). The two faces of a wall are of
    different kinds, so they never merge however thin it is.
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
    """Coordinates of all lines before and after walls that are one pixel too thin or too thick got the nominal
    thickness: of such a wall's faces the one with less support moves, unless it would reach another line."""
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


def _straight(bare: Labels, tolerance: int, thickness: int | None) -> Labels:
    """Cells between border lines take their commonest class; holes that were bitten into walls close.
    Walls near `thickness` get it; None leaves them as they are."""
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
    """Each cell's commonest class, drawn at the cell's new coordinates."""
    votes = np.stack([labels == label for label in range(WALL + 1)]).astype(np.int32)
    votes = np.add.reduceat(np.add.reduceat(votes, rows[0][:-1], axis=1), columns[0][:-1], axis=2)
    cells = votes.argmax(0).astype(np.uint8)
    return np.repeat(np.repeat(cells, np.diff(rows[1]), axis=0), np.diff(columns[1]), axis=1)


# ------------------------------------------------------------------------------------------------------------- openings


@dataclass
class _Segments:
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
    padded = np.pad(~wall, ((0, 0), (_GAP_PX, _GAP_PX)), constant_values=True)  # the picture's border is no wall
    return (~wall) & (_runs(padded) <= _GAP_PX)[:, _GAP_PX:-_GAP_PX]


def _segments(shell: Mask) -> _Segments:
    wide, high = _runs(shell), _runs(shell.T).T
    flat = shell & (high <= _WALL_MAX_PX) & (wide > high)
    steep = shell & (wide <= _WALL_MAX_PX) & (high > wide)
    corner = shell & ~flat & ~steep
    return _Segments(*(_numbered(mask) for mask in (flat, steep, corner)))


def _numbered(mask: Mask) -> NDArray[np.int32]:
    """Numbers of the 4-connected components by pixel, 0 outside."""
    numbers = np.zeros(mask.shape, np.int32)
    for number, (_, where, part) in enumerate(components(mask.astype(np.uint8), (1,)), 1):
        numbers[where][part] = number
    return numbers


def _blobs(labels: Labels) -> Iterator[tuple[int, Mask]]:
    """Class and (h, w) mask of each opening; where they would overlap later ones win, so doors come last."""
    for label in (WINDOW, FRONT_DOOR, DOOR):
        for _, where, mask in components(labels, (label,)):
            blob = np.zeros(labels.shape, np.bool_)
            blob[where] = mask
            yield label, blob


def _restored(blob: Mask, segments: _Segments) -> Mask:
    """An opening as rectangles through the whole thickness of each wall that it lies in."""
    result = np.zeros_like(blob)
    for numbered, turned in ((segments.horizontal, False), (segments.vertical, True)):
        for number in np.unique(numbered[blob]).tolist():
            if number == 0:
                continue
            piece = numbered == number
            source, target, wall = (blob.T, result.T, piece.T) if turned else (blob, result, piece)
            rows = np.flatnonzero(wall.any(1))
            # A pixel beside the wall counts too: straightening may have moved the wall under the opening.
            coverage = source[max(0, rows[0] - 1) : rows[-1] + 2].sum(0) * wall.any(0)
            for start, stop in _stretches(coverage):
                target[rows[0] : rows[-1] + 1, start:stop] |= wall[rows[0] : rows[-1] + 1, start:stop]
    for number in np.unique(segments.corners[blob]).tolist():
        if number:
            corner = segments.corners == number
            share = blob[corner].mean()
            result |= corner if share >= 0.5 else (corner & blob if share >= 0.2 else np.zeros_like(blob))
    return result


def _stretches(coverage: NDArray[np.intp]) -> Iterable[tuple[int, int]]:
    """Runs along a wall where at least half of an opening's usual thickness shows; gaps of two pixels do not count."""
    present = coverage >= max(1, (np.median(coverage[coverage > 0]) if coverage.any() else 0) / 2)
    apart = ~present
    present |= (_runs(apart[None])[0] <= 2) & apart & present.any()
    changes = np.flatnonzero(np.diff(np.pad(present, 1).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(changes[::2], changes[1::2], strict=True) if b - a >= 3]


def _with_openings(walls: Labels, blobs: list[tuple[int, Mask]], reference: Plan) -> Labels | None:
    """Walls with the openings put back, restored as far as the plan still reads as the reference; None when it does not
    even with the openings as they were."""
    shell = walls == WALL
    segments = _segments(shell)
    restored = [_restored(blob, segments) for _, blob in blobs]

    def stamped(choice: list[Mask]) -> Labels:
        labels = walls.copy()
        for (label, _), mask in zip(blobs, choice, strict=True):
            labels[mask] = label
        return labels

    labels = stamped(restored)
    if _same(reference, annotate(labels)):
        return labels
    choice = [blob & shell for _, blob in blobs]
    if not _same(reference, annotate(stamped(choice))):
        choice = [blob for _, blob in blobs]
        if not _same(reference, annotate(stamped(choice))):
            return None
    for index, mask in enumerate(restored):
        trial = [*choice[:index], mask, *choice[index + 1 :]]
        if _same(reference, annotate(stamped(trial))):
            choice = trial
    return stamped(choice)


def _rough_where_needed(walls: Labels, blobs: list[tuple[int, Mask]], reference: Plan) -> Labels | None:
    """A tidy plan that keeps its rough pixels between rooms whose position sentence or connection tidying would change;
    None when the plan does not read the same even so."""
    segments = _segments(walls == WALL)
    labels = walls.copy()
    for label, blob in blobs:
        labels[_restored(blob, segments)] = label
    for _ in range(3):
        reading = annotate(labels)
        if _same(reference, reading):
            return labels
        pairs = {(position.subject, position.object) for position in {*reference.positions} - {*reading.positions}}
        pairs |= {*reference.connections} ^ {*reading.connections}
        for first, second in pairs:
            between = dilate(reference.mask(first), NEAR_PX + 1) & dilate(reference.mask(second), NEAR_PX + 1)
            labels[between] = reference.labels[between]
    return None
