"""Where to draw again: rooms and walls of sentences not met, doors not asked for; rooms of met ones stay. And what is shown.

In: a spec, a reading, its receipt. Out: a mask over the image, and the text made true of the image. The drawing itself is
`generate`'s: latents under the mask are noised and denoised again, the rest is held (RePaint, Lugmayr et al. 2022, without its
resampling loops), and guided from what is shown towards what is asked for.
"""

import numpy as np
from numpy.typing import NDArray

from loraloom.protocols.domain import Receipt

from ..plan import Plan
from ..text.spec import Spec, also_connected, with_counts, without
from ..vision.pixels import dilate
from ..vision.reading import Reading
from ..vocabulary import EXTERNAL, RoomId
from .verifying import doors_between, not_asked_for, unreadable

_DOOR_REACH_PX = 9
"""From two rooms into the wall between them: half a door's length on either side of the wall's middle."""
_MARGIN_PX = 6


def repair_mask(spec: Spec, reading: Reading, receipt: Receipt) -> NDArray[np.bool_] | None:
    """(256, 256) bool: where to draw again. None without a fault, True everywhere when nothing was readable.

    - A missing connection frees the wall between its two rooms; where they do not touch, both rooms.
    - A wrong position frees both rooms; the living room, which everything hangs on, stays.
    - A wrong count frees all rooms of the type, or, when none is there, the living room and the outside beside it. A
      sentence of which one cannot tell only for a wrong count frees nothing more.
    - A connection that is not asked for frees its doors.
    """
    unwanted = not_asked_for(spec, reading.plan)
    if receipt.complete and not unwanted:
        return None
    plan = reading.plan
    if unreadable(reading):
        return np.ones(plan.labels.shape, np.bool_)
    mask = np.zeros(plan.labels.shape, np.bool_)
    num_counts, num_connections = len(spec.counts or ()), len(spec.connections or ())
    wrong_count = any(verdict.met is False for verdict in receipt.verdicts[:num_counts])
    for index, verdict in enumerate(receipt.verdicts):
        if verdict.met or (verdict.met is None and wrong_count):
            continue
        if index < num_counts:
            mask |= _for_count(plan, (spec.counts or ())[index][0])
        elif index < num_counts + num_connections:
            mask |= _for_connection(plan, *(spec.connections or ())[index - num_counts])
        else:
            position = (spec.positions or ())[index - num_counts - num_connections]
            mask |= _for_rooms(plan, (position.subject, position.object))
    for pair in unwanted:
        for door in doors_between(plan, *pair):
            left, top, right, bottom = door.box
            mask[top:bottom, left:right] = True
    return dilate(mask, _MARGIN_PX)


def shown_text(text: str, spec: Spec, reading: Reading, receipt: Receipt) -> str:
    """The text made true of the image: without connections and positions that it does not meet, with its counts and with its
    connections that are not asked for. The text itself when nothing was readable."""
    if unreadable(reading):
        return text
    counts = spec.counts or ()
    found = {kind: sum(room.id.kind == kind for room in reading.plan.rooms) for kind, _ in counts}
    missing = {verdict.sentence for verdict in receipt.verdicts[len(counts) :] if not verdict.met}
    return also_connected(with_counts(without(text, missing), found), not_asked_for(spec, reading.plan))


def _for_count(plan: Plan, kind: str) -> NDArray[np.bool_]:
    rooms = [room.id for room in plan.rooms if room.id.kind == kind]
    mask = _union(plan, rooms)
    if not rooms:
        living = _union(plan, [room.id for room in plan.rooms if room.id.kind == "living room"])
        hub = living if living.any() else plan.instances > 0
        mask = living | (dilate(hub, 4 * _DOOR_REACH_PX) & (plan.labels == EXTERNAL))
    return mask


def _for_connection(plan: Plan, first: RoomId, second: RoomId) -> NDArray[np.bool_]:
    a, b = plan.mask(first), plan.mask(second)
    between = dilate(a, _DOOR_REACH_PX) & dilate(b, _DOOR_REACH_PX)
    return between if between.any() else _for_rooms(plan, (first, second))


def _for_rooms(plan: Plan, rooms: tuple[RoomId, RoomId]) -> NDArray[np.bool_]:
    """Both rooms, without the living room; for one that is not there, the place where it could come to be."""
    mask = _union(plan, [name for name in rooms if name.kind != "living room"])
    for name in rooms:
        if plan.room(name) is None:
            mask |= _for_count(plan, name.kind)
    return mask


def _union(plan: Plan, rooms: list[RoomId]) -> NDArray[np.bool_]:
    mask = np.zeros(plan.labels.shape, np.bool_)
    for name in rooms:
        mask |= plan.mask(name)
    return mask
