"""Blur and exposure of an image as numbers, measured on the pixels that would be learned.

In: an RGB image. Out: `Quality`. Blur is the blur effect of Crete, Dolmiere, Ladret and Nicolas ("The blur effect: perception
and estimation with a new no-reference perceptual blur metric", 2007): how much of the differences between neighbouring pixels
stays when the image is blurred once more. It does not depend on what an image shows as much as the energy of edges does.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

_WINDOW = 11
_SIDE = 512
_BLACK, _WHITE = 4, 251
_FEWEST_PIXELS = 16
_PLAIN = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Numbers of one image.

    Attributes:
        blur: 0 sharp to 1 blurred; 0 for an image without any edge.
        brightness: Mean of the grey values, 0 to 1.
        contrast: Range from the darkest to the brightest hundredth of the pixels, 0 to 1.
        black, white: Share of pixels that are pure black or white, 0 to 1.
        colours: Number of distinct grey values in use: flat graphics have few, photographs nearly all.
        plain_border: Whether most of the outermost pixels are pure black or white: a cut-out on a plain background.
    """

    blur: float
    brightness: float
    contrast: float
    black: float
    white: float
    colours: int
    plain_border: bool

    @property
    def is_graphic(self) -> bool:
        """Whether it is flat graphics or a cut-out: large areas of black or white are no fault of exposure there."""
        return self.colours <= 64 or self.plain_border


def measure(image: Image.Image) -> Quality:
    """Blur and exposure of an RGB image; a larger one than 512 pixels is reduced first."""
    grey = image.convert("L")
    factor = min(grey.size) // _SIDE
    if factor > 1:
        grey = grey.reduce(factor)
    values = np.asarray(grey)
    counts = np.bincount(values.ravel(), minlength=256)
    shares = counts / counts.sum()
    sums = np.cumsum(shares)
    low, high = int(np.searchsorted(sums, 0.01)), int(np.searchsorted(sums, 0.99))
    return Quality(
        blur=round(_blur(values.astype(np.float32)), 3),
        brightness=round(float((shares * np.arange(256)).sum()) / 255, 3),
        contrast=round((high - low) / 255, 3),
        black=round(float(shares[:_BLACK].sum()), 3),
        white=round(float(shares[_WHITE:].sum()), 3),
        colours=int((shares > 1e-3).sum()),
        plain_border=_plain_border(values),
    )


def _plain_border(values: npt.NDArray[np.uint8]) -> bool:
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    return float(((edge < _BLACK) | (edge >= _WHITE)).mean()) > _PLAIN


def _blur(grey: npt.NDArray[np.float32]) -> float:
    from scipy.ndimage import uniform_filter1d  # half a second, and only `inspect` needs it

    worst = 0.0
    for axis in (0, 1):
        if grey.shape[axis] < _FEWEST_PIXELS:
            continue
        sharp = np.abs(np.diff(grey, axis=axis))
        blurred = np.abs(np.diff(uniform_filter1d(grey, _WINDOW, axis=axis, mode="reflect"), axis=axis))
        total = float(sharp.sum())
        if total > 0:
            worst = max(worst, 1.0 - float(np.maximum(sharp - blurred, 0).sum()) / total)
    return worst
