"""Clean the pixel classes of a plan that was read from a generated image, without changing its meaning.

In: a map of pixel classes, or the plan read from it. Out: a map of pixel classes without specks, with straight walls and
room borders, walls of uniform thickness, and openings that are rectangles through the whole wall.

Invariants: every room and every connection that is not a speck, and every position, is still read afterwards, and so are
the rooms with windows and front doors. No room and no connection is added; a position may be. The steps are tried from
the strongest form to the weakest, and a form is used only if the result keeps these invariants. If none does, the labels
stay unchanged. A plan without ragged edges is returned unchanged.
"""

import numpy as np

from ..plan import NEAR_PX, Plan, annotate
from ..vocabulary import CLASS_NAMES, DOOR, WALL, RoomId
from .pixels import Labels, Mask, dilate
from .straightening import (
    MIN_ROOM_PX,
    openings_of,
    raggedness,
    segments_of,
    straight_walls,
    through_wall,
    wall_thickness,
    without_specks,
)

_MAX_PARTS = 64
"""An image with more rooms or more openings than this is noise and not a plan; it is not changed."""

_MIDDLE_PX = 4
"""Thickness for walls that a rough image shows between 3 and 5 pixels: at 5 the rooms beside a wall are too far apart for
a position sentence, at 3 rooms across a corner may be near enough for one."""

_RAGGED = 0.10
"""Share of border runs of one or two pixels above which a plan is ragged; clean plans, also real ones, have up to 0.08."""


def clean(plan: Plan | Labels) -> Labels:
    """Clean a plan; see the invariants of the module.

    Args:
        plan: A plan, or its (h, w) uint8 pixel classes.

    Returns:
        New (h, w) uint8 pixel classes. Room numbers stay the same unless a speck had one.
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
    blobs = list(openings_of(labels))
    if len(blobs) > _MAX_PARTS or len(reference.rooms) > _MAX_PARTS:
        return labels.copy()
    bare = np.where(labels >= WALL, WALL, labels).astype(np.uint8)
    own = wall_thickness(bare == WALL)
    attempts: list[Labels] = []
    for tolerance, thickness in ((3, own), (3, _MIDDLE_PX), (2, own), (1, None)):
        attempts.append(straight_walls(bare, tolerance, thickness))
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
    """New name of each old room of at least `least_px`. None unless each of them keeps its type and most of its area,
    and there is no other room."""
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
    """Whether every room that is not a speck still exists, with every position between two of them. (Connections stay:
    only specks lose their pixels, so every other door touches the same rooms.)"""
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
    """Whether two plans of one image mean the same: the same rooms with the same names, the same connections, at least
    the same positions, the same rooms with windows and with front doors."""
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


def _with_openings(walls: Labels, blobs: list[tuple[int, Mask]], reference: Plan) -> Labels | None:
    """Walls with the openings restored, straightened as far as the plan still reads as the reference; None when it does
    not even with the original openings."""
    shell = walls == WALL
    segments = segments_of(shell)
    restored = [through_wall(blob, segments) for _, blob in blobs]

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
    """A clean plan that keeps its rough pixels between rooms whose position sentence or connection would change; None
    when the plan still does not read the same."""
    segments = segments_of(walls == WALL)
    labels = walls.copy()
    for label, blob in blobs:
        labels[through_wall(blob, segments)] = label
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
