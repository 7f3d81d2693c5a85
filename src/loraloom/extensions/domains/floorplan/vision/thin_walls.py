"""Walls between two rooms of one kind that an image holds in part: leaks in them, and lines too faint for a wall's colour.

In: a map of pixel classes, the image, the palette. Out: the map, such walls put in. A wall of three pixels that is blurred,
or came from a denoiser, keeps half of its contrast or less; between two dark green rooms, whose colour is near the wall's, it
stays nearer to theirs, and both would be read as one room. An eye sees the line; so does this.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import BALCONY, ROOM_CLASSES, WALL
from .pixels import Labels, Mask, Where, components, dilate, necks

_FAINT = 0.25
"""On the way from the room's own colour, 0, to the wall's, 1. Half a blurred wall's contrast is left, or a third."""
_MIN_PART_PX = 80
"""A wall is put between two parts of at least this size: half of the smallest room."""
_LEAK_PX = 3
"""Where a part is narrower than 2 * 3 + 1 the wall goes on; but for balconies no room is so narrow."""
_HALF_WALL_PX = 3
"""A wall's pixels lie at most this far from both rooms."""


def close_leaks(labels: Labels) -> None:
    """Two rooms of a kind that only a leak joins become two again, in place."""
    for _, where, mask, leak_px in _rooms(labels):
        labels[where][necks(mask, leak_px, _MIN_PART_PX)] = WALL


def draw_faint_walls(labels: Labels, rgb: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Rooms that a faint line parts become two, in place.

    Args:
        labels: (h, w) pixel classes.
        rgb: (h, w, 3) uint8, the image.
        palette: (13, 3) uint8, the style's colours.
    """
    for label, where, mask, leak_px in _rooms(labels):
        labels[where][_line(mask, rgb[where].astype(np.float32), palette[[label, WALL]], leak_px)] = WALL


def _rooms(labels: Labels) -> Iterator[tuple[int, Where, Mask, int]]:
    """Class, slices and mask of what was read as one room, and how wide a leak may be; a living room is one, however narrow."""
    for label, where, mask in components(labels, ROOM_CLASSES[1:]):
        yield label, where, mask, 1 if label == BALCONY else _LEAK_PX


def _line(mask: Mask, colours: NDArray[np.float32], ends: NDArray[np.uint8], leak_px: int) -> Mask:
    """(h, w) the pixels of a room that are a line between two parts of it; none mostly."""
    along = ends[1] - ends[0].astype(np.float32)
    faint = mask & ((colours - np.median(colours[mask], 0)) @ along / np.square(along).sum() >= _FAINT)
    faint |= necks(mask & ~faint, leak_px, _MIN_PART_PX)
    near = np.zeros(mask.shape, np.intp)
    for _, where, part in components((mask & ~faint).astype(np.uint8), (1,)):
        if part.sum() >= _MIN_PART_PX:
            whole = np.zeros_like(mask)
            whole[where] = part
            near += dilate(whole, _HALF_WALL_PX)
    return faint & (near > 1)
