# pyright: basic
# scipy has no type annotations; its image functions are called only in this module.
"""Blur, median and maximum filters of images.

In: arrays of numbers in [0, 1], (height, width) or (height, width, 3). Out: arrays of the same shape.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.floating[Any]]
"""(height, width, 3) or (height, width), in [0, 1]."""


def blur(values: Pixels, sigma: float) -> Pixels:
    """Gaussian blur along rows and columns, not across channels."""
    return ndimage.gaussian_filter(values, (sigma, sigma, 0) if values.ndim == 3 else sigma, truncate=3.0)


def without_specks(pixels: Pixels) -> Pixels:
    """The median of each 3 x 3 neighbourhood of a colour image."""
    return ndimage.median_filter(pixels, size=(3, 3, 1))


def widened(values: Pixels, size: int) -> Pixels:
    """The maximum of each neighbourhood of `size` x `size` of a (height, width) array."""
    return ndimage.maximum_filter(values, size=size)


def streaked(values: Pixels, length: int) -> Pixels:
    """The mean over `length` rows, with the first row after the last."""
    return ndimage.uniform_filter1d(values, length, axis=0, mode="wrap")
