"""The mask and the source text of a repair: rooms and walls of unmet sentences and unrequested doors are inpainted.

In: a spec, a reading, its receipt. Out: the inpaint mask, and a text that describes the image as it is. Rooms of met
sentences stay. `generate` does the inpainting: latents under the mask are noised and denoised again, the others are kept
(RePaint, Lugmayr et al. 2022, without its resampling loops), with guidance from the described text to the requested one.
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
"""Reach of two rooms into the wall between them: half a door's length on either side of the wall's centre line."""
_MARGIN_PX = 6


def repair_mask(spec: Spec, reading: Reading, receipt: Receipt) -> NDArray[np.bool_] | None:
    """(256, 256) bool: the inpaint region. None without a fault, True everywhere when nothing was readable.

    - A missing connection adds the wall between its two rooms; where they do not touch, both rooms.
    - A wrong position adds both rooms, but never the living room, because all other rooms depend on it.
    - A wrong count adds all rooms of the type, or, when there is none, the living room and the outside beside it. A
      sentence that is unsure only because of a wrong count adds nothing more.
    - An unrequested connection adds its doors.
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
    """The text changed to describe the image: without unmet connections and positions, with the image's counts and with
    its unrequested connections. The unchanged text when nothing was readable."""
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
    """Both rooms, without the living room; for a missing room, the area where it could be added."""
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
