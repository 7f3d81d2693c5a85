# pyright: basic
# scipy carries no types; this module is the one place where its image functions are called.
"""Smoothing and widening of images.

In: arrays of numbers in [0, 1], (height, width) or (height, width, 3). Out: arrays of the same shape.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.floating[Any]]
"""(height, width, 3) or (height, width), in [0, 1]."""


def blur(values: Pixels, sigma: float) -> Pixels:
    """Gaussian blur along rows and columns, never between colours."""
    return ndimage.gaussian_filter(values, (sigma, sigma, 0) if values.ndim == 3 else sigma, truncate=3.0)


def without_specks(pixels: Pixels) -> Pixels:
    """The median of each 3 x 3 neighbourhood of a colour image."""
    return ndimage.median_filter(pixels, size=(3, 3, 1))


def widened(values: Pixels, size: int) -> Pixels:
    """The largest number of each neighbourhood of (height, width)."""
    return ndimage.maximum_filter(values, size=size)


def streaked(values: Pixels, length: int) -> Pixels:
    """The mean over `length` rows; the first row follows the last."""
    return ndimage.uniform_filter1d(values, length, axis=0, mode="wrap")
