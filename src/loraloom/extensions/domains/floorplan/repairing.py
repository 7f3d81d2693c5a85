"""Where to draw again: the rooms and walls of sentences not met, while the rooms of met ones stay.

In: a spec, a reading, its receipt. Out: a mask over the picture. The drawing itself is `generate`'s: latents under the
mask are noised and denoised again, the rest is held (RePaint, Lugmayr et al. 2022, without its resampling loops).
"""

import numpy as np
from numpy.typing import NDArray

from loraloom.verdicts import Receipt

from .pixels import dilate
from .plan import Plan
from .reading import Reading
from .spec import Spec
from .verifying import unreadable
from .vocabulary import EXTERNAL, RoomId

_DOOR_REACH_PX = 9
"""From two rooms into the wall between them: half a door's length on either side of the wall's middle."""
_MARGIN_PX = 6


def repair_mask(spec: Spec, reading: Reading, receipt: Receipt) -> NDArray[np.bool_] | None:
    """(256, 256) bool: where to draw again. None when every sentence is met, True everywhere when nothing is worth keeping.

    - A missing connection frees the wall between its two rooms; where they do not touch, both rooms.
    - A wrong position frees both rooms; the living room, which everything hangs on, stays.
    - A wrong count frees all rooms of the type, or, when none is there, the living room and the outside beside it.
    """
    failed = [(verdict, index) for index, verdict in enumerate(receipt.verdicts) if verdict.met is not True]
    if not failed:
        return None
    plan = reading.plan
    if unreadable(reading):
        return np.ones(plan.labels.shape, np.bool_)
    mask = np.zeros(plan.labels.shape, np.bool_)
    num_counts, num_connections = len(spec.counts or ()), len(spec.connections or ())
    for _, index in failed:
        if index < num_counts:
            assert spec.counts is not None
            mask |= _for_count(plan, spec.counts[index][0])
        elif index < num_counts + num_connections:
            assert spec.connections is not None
            mask |= _for_connection(plan, *spec.connections[index - num_counts])
        else:
            assert spec.positions is not None
            position = spec.positions[index - num_counts - num_connections]
            mask |= _for_rooms(plan, (position.subject, position.object))
    mask = dilate(mask, _MARGIN_PX)
    return mask if mask.any() else np.ones(plan.labels.shape, np.bool_)


def _for_count(plan: Plan, kind: str) -> NDArray[np.bool_]:
    rooms = [room.id for room in plan.rooms if room.id.kind == kind]
    mask = _union(plan, rooms)
    if not rooms:
        living = [room.id for room in plan.rooms if room.id.kind == "living room"]
        around = dilate(_union(plan, living), 4 * _DOOR_REACH_PX)
        mask = _union(plan, living) | (around & (plan.labels == EXTERNAL))
    return mask


def _for_connection(plan: Plan, first: RoomId, second: RoomId) -> NDArray[np.bool_]:
    a, b = plan.mask(first), plan.mask(second)
    between = dilate(a, _DOOR_REACH_PX) & dilate(b, _DOOR_REACH_PX)
    return between if between.any() else _for_rooms(plan, (first, second))


def _for_rooms(plan: Plan, rooms: tuple[RoomId, RoomId]) -> NDArray[np.bool_]:
    return _union(plan, [name for name in rooms if name.kind != "living room"])


def _union(plan: Plan, rooms: list[RoomId]) -> NDArray[np.bool_]:
    mask = np.zeros(plan.labels.shape, np.bool_)
    for name in rooms:
        mask |= plan.mask(name)
    return mask
