# pyright: basic
# scipy has no type annotations; its image functions are called only in this module.
"""Sets of pixels: connected parts, dilation, flat neighbourhoods.

In: masks and label maps as numpy arrays. Out: the same, and slices of the parts.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels, the last two exclusive."""

Labels = NDArray[np.uint8]
"""(height, width) pixel classes, as in `vocabulary`."""

Mask = NDArray[np.bool_]

Where = tuple[slice, slice]
"""Rows and columns."""


def box_of(where: Where) -> Box:
    """Slices (rows, columns) as a box."""
    return where[1].start, where[0].start, where[1].stop, where[0].stop


def _parts(mask: Mask) -> list[tuple[Where, Mask]]:
    """4-connected components as slices and masks within them, by raster order of their first pixels."""
    numbered: NDArray[np.int32] = ndimage.label(mask)[0]  # pyright: ignore
    found = ndimage.find_objects(numbered)
    parts = [(where, numbered[where] == number) for number, where in enumerate(found, 1)]
    width = mask.shape[1]
    return sorted(parts, key=lambda part: part[0][0].start * width + part[0][1].start + int(part[1][0].argmax()))


def components(labels: Labels, classes: Iterable[int]) -> Iterator[tuple[int, Where, Mask]]:
    """Class, slices and mask of each 4-connected component, class by class; searches only the class's bounding box."""
    wanted = tuple(classes)
    boxes = ndimage.find_objects(labels, max_label=max(wanted))
    for label in wanted:
        outer = boxes[label - 1]
        if outer is None:
            continue
        top, left = outer[0].start, outer[1].start
        for (rows, columns), mask in _parts(labels[outer] == label):
            where = slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left)
            yield label, where, mask


def dilate(mask: Mask, by: int) -> Mask:
    """Dilation by a square of side 2 * by + 1, along rows, then along columns."""
    for _ in range(2):
        grown = mask.copy()
        for shift in range(1, by + 1):
            grown[shift:] |= mask[:-shift]
            grown[:-shift] |= mask[shift:]
        mask = grown.T
    return mask


def flat(labels: Labels, side: int) -> Mask:
    """Pixels whose surrounding square of `side` (odd) pixels contains one class only."""
    return ndimage.minimum_filter(labels, side) == ndimage.maximum_filter(labels, side)


def extremes(values: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Lowest and highest value of each channel of (h, w, c) in the square of `side` (odd) pixels around each pixel."""
    size = (side, side, 1)
    low, high = ndimage.minimum_filter(values, size), ndimage.maximum_filter(values, size)
    return np.asarray(low, np.uint8), np.asarray(high, np.uint8)


def necks(mask: Mask, by: int, least: int) -> Mask:
    """Pixels where a mask is narrower than 2 * `by` + 1 and that join wider parts of at least `least` pixels each."""
    found = np.zeros_like(mask)
    core = ~dilate(~np.pad(mask, by), by)
    wide = dilate(core, by)[by:-by, by:-by]
    numbered: NDArray[np.int32] = ndimage.label(wide)[0]  # pyright: ignore
    large = np.bincount(numbered.ravel()) >= least
    large[0] = False
    if large.sum() < 2:
        return found
    numbered[~large[numbered]] = 0
    padded = np.pad(numbered, 1)
    for where, part in _parts(mask & (numbered == 0)):
        around = tuple(slice(span.start, span.stop + 2) for span in where)
        touched = np.unique(padded[around][dilate(np.pad(part, 1), 1)])
        if (touched > 0).sum() > 1:
            found[where] |= part
    return found
