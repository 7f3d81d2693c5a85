"""Convert pixel classes to an RGB image, and an RGB image with exact colours back to pixel classes.

In: a map of classes, or RGB with no other colours than those of a style. Out: the other. Generated images have colours
that are only near a style's: they need `vision.reading`; this module refuses them.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom.utils.errors import UserError
from loraloom.utils.image_files import png_bytes

from ..vision.pixels import Labels
from ..vocabulary import STYLES, Style


def _style(style: Style | str) -> Style:
    return STYLES[style] if isinstance(style, str) else style


def paint(labels: Labels, style: Style | str = "sjh") -> NDArray[np.uint8]:
    """(h, w) uint8 pixel classes as (h, w, 3) uint8 RGB."""
    return _style(style).palette[labels]


def png_of(labels: Labels, style: Style | str = "sjh") -> bytes:
    """(h, w) uint8 pixel classes as an RGB PNG file."""
    return png_bytes(Image.fromarray(paint(labels, style)))


def labels_of_exact(rgb: NDArray[np.uint8], style: Style | str = "sjh") -> Labels:
    """(h, w, 3) uint8 RGB of exact colours as (h, w) uint8 pixel classes.

    Raises:
        UserError: A pixel has none of the style's colours.
    """
    used = _style(style)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise UserError("not an RGB image", got=f"shape {rgb.shape}", expected="(height, width, 3)")
    weights = np.array([65536, 256, 1], np.int32)
    pixels = rgb.astype(np.int32) @ weights
    codes = used.palette.astype(np.int32) @ weights
    order = np.argsort(codes)
    places = np.minimum(np.searchsorted(codes[order], pixels), len(codes) - 1)
    labels = order[places].astype(np.uint8)
    strange = codes[labels] != pixels
    if strange.any():
        y, x = (int(place[0]) for place in np.nonzero(strange))
        raise UserError(
            f"the image has colours that the style {used.name!r} does not know, {int(strange.sum())} px of them",
            got=f"RGB {tuple(rgb[y, x].tolist())} at x {x}, y {y}",
            fix="read it as a generated image, or check that it is a PNG of this style at its first size",
        )
    return labels
