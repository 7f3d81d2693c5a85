"""Walls between two rooms of one kind that are drawn too faintly to have the wall's colour.

In: a map of pixel classes, the picture, the palette. Out: the map, such walls put in. A wall of three pixels that is blurred,
or came from a denoiser, keeps half of its contrast or less; between two dark green rooms, whose colour is near the wall's, it
stays nearer to theirs, and both would be read as one room. An eye sees the line; so does this.
"""

import numpy as np
from numpy.typing import NDArray

from .pixels import Labels, Mask, components, dilate, necks, parts_of
from .vocabulary import ROOM_CLASSES, WALL, RoomId

_FAINT = 0.25
"""On the way from the room's own colour, 0, to the wall's, 1. Half a blurred wall's contrast is left, or a third."""
_MIN_PART_PX = 80
"""A line counts when it leaves two parts of at least this size: half of the smallest room."""
_LEAK_PX = 3
"""Where a part is narrower than 2 * 3 + 1 the line goes on, fainter still; but for balconies no room is so narrow."""
_BALCONY = RoomId("balcony", 1).pixel_class
_HALF_WALL_PX = 3
"""A wall's pixels lie at most this far from both rooms."""


def with_faint_walls(labels: Labels, rgb: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Labels:
    """Rooms that a faint line parts become two.

    Args:
        labels: (h, w) pixel classes.
        rgb: (h, w, 3) uint8, the picture.
        palette: (13, 3) uint8, the style's colours.
    """
    found = labels.copy()
    for label, where, mask in components(labels, ROOM_CLASSES[1:]):  # a living room is one, whatever shape it has
        if mask.sum() >= 2 * _MIN_PART_PX:
            leak_px = 1 if label == _BALCONY else _LEAK_PX
            found[where][_line(mask, rgb[where].astype(np.float32), palette[[label, WALL]], leak_px)] = WALL
    return found


def _line(mask: Mask, colours: NDArray[np.float32], ends: NDArray[np.uint8], leak_px: int) -> Mask:
    """(h, w) the pixels of a component that are a line between two parts of it; none mostly."""
    middle = np.median(colours[mask], 0)
    along = ends[1] - ends[0].astype(np.float32)
    faint = mask & ((colours - middle) @ along / np.square(along).sum() >= _FAINT)
    faint |= necks(mask & ~faint, leak_px, _MIN_PART_PX)
    parts = [part for part in parts_of(mask & ~faint) if part.sum() >= _MIN_PART_PX]
    near = np.zeros(mask.shape, np.intp)
    if len(parts) > 1:
        for part in parts:
            near += dilate(part, _HALF_WALL_PX)
    return faint & (near > 1)
