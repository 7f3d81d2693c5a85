"""The colours of an image's large flat areas, and the share of them that a style does not contain.

In: RGB on the grid of plans. Out: flat colours with their shares of the area, and the share in colours that neither a room
nor the outside of a style has. Noise, JPEG, blur and resizing change pixels, but not the colour in the middle of a room;
another palette does. `benchmarks/foreign_palettes.py` measures how well the share separates the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..vocabulary import WALL, Style, hex_of
from .pixels import Mask, extremes

MOST_FOREIGN = 0.014
"""An image with a larger share of foreign flat colours has another palette. Images in our own styles stay below 0.003 with
JPEG 30, noise 25 and blur 2, and so do samples of a half-trained adapter. Foreign ones have at least 0.016, except a pale
copy of `plain` (`benchmarks/foreign_palettes.py`)."""

FOREIGN = 36.0
"""A flat colour farther than this (Euclidean, 0 .. 442) from every class that has large areas is foreign; areas that a
model generated are up to 31 off."""
_NEAR_THIN = 24.0
"""A flat colour farther than this from those classes is also foreign if a wall, door or window is nearer."""

_MEDIAN_PX = 5
_FLAT_PX = 7
"""Side of the square that must be flat, pixels: an outer wall of five pixels contains none."""
_MOST_RANGE = 28
"""Largest difference of one channel within that square, after the median filter; noise of 25 leaves less."""
_SAME = 14.0
"""Largest distance of a pixel from the flat colour that it counts as."""
_MOST_COLOURS = 24
_PLAIN = 8.0
_LEAST_PLAIN = 0.75
"""Smallest share of a plan within `_PLAIN` of one of its most common flat colours: rendered plans have at least 0.81, 36
of 42 photographs less than this (an object on a uniform background has more)."""
_COMMONEST = 8
_LEAST_COLOURS, _LEAST_OF_DRAWN = 4, 0.004
_LEAST_SHARE = 0.0005


@dataclass(frozen=True, slots=True)
class FlatColour:
    """One colour of large areas.

    Attributes:
        rgb: The colour, 0 .. 255.
        share: Share of the image's area, 0 .. 1; edges are not counted.
    """

    rgb: tuple[int, int, int]
    share: float

    @property
    def hex(self) -> str:
        """`#rrggbb`."""
        return hex_of(self.rgb)


def flat_colours(rgb: NDArray[np.uint8]) -> list[FlatColour]:
    """The colours of an image's flat areas, the largest share first.

    Args:
        rgb: (256, 256, 3) uint8, as `reading.as_array` makes it.
    """
    median = without_noise(rgb)
    pixels = median[_flat(median)].astype(np.float32)
    found: list[FlatColour] = []
    while len(pixels) and len(found) < _MOST_COLOURS:
        cells = (pixels.astype(np.uint32) >> 4) @ np.array([256, 16, 1], np.uint32)
        colour = np.median(pixels[cells == np.bincount(cells).argmax()], 0)
        for _ in range(2):
            colour = pixels[_near(pixels, colour)].mean(0) if _near(pixels, colour).any() else colour
        near = _near(pixels, colour)
        share = float(near.sum()) / rgb[..., 0].size
        if share < _LEAST_SHARE:
            break
        found.append(FlatColour(_commonest(pixels[near]), share))
        pixels = pixels[~near]
    return sorted(found, key=lambda each: -each.share)


def without_noise(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) median of each pixel's neighbourhood; removes noise and mostly keeps thin lines."""
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.MedianFilter(_MEDIAN_PX)))


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Colours that an image may have.

    Attributes:
        large: (n, 3) colours of classes with large areas: rooms and the outside.
        thin: (m, 3) colours of walls, doors and windows.
    """

    large: NDArray[np.float32]
    thin: NDArray[np.float32]


def known_of(style: Style) -> Known:
    """The known colours of a style."""
    palette = style.palette.astype(np.float32)
    return Known(palette[:WALL], palette[WALL:])


def foreign(colours: Sequence[FlatColour], known: Known) -> list[FlatColour]:
    """The flat colours that belong to no room and not to the outside: far from all, or nearest to a wall, door or window."""
    found: list[FlatColour] = []
    for each in colours:
        large, thin = (_apart(each, table) for table in (known.large, known.thin))
        if large > FOREIGN or (large > _NEAR_THIN and thin < large):
            found.append(each)
    return found


def foreign_share(colours: Sequence[FlatColour], known: Known) -> float:
    """Share of the image's area that is flat in a foreign colour, 0 .. 1."""
    return sum(each.share for each in foreign(colours, known))


def has_plain_colours(rgb: NDArray[np.uint8], colours: Sequence[FlatColour]) -> bool:
    """Whether an image consists of a few plain colours, as plans do; the areas of a photograph have shades.

    Args:
        rgb: (256, 256, 3) uint8.
        colours: Its flat colours.
    """
    large = [each for each in colours if each.share >= _LEAST_OF_DRAWN][:_COMMONEST]
    if len(large) < _LEAST_COLOURS:
        return False
    pixels = without_noise(rgb).astype(np.int32)
    plain = np.zeros(pixels.shape[:2], np.bool_)
    for each in large:
        plain |= np.square(pixels - np.array(each.rgb, np.int32)).sum(-1) <= _PLAIN**2
    return float(plain.mean()) >= _LEAST_PLAIN


def _apart(colour: FlatColour, table: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(table - np.array(colour.rgb, np.float32), axis=1).min())


def _flat(values: NDArray[np.uint8]) -> Mask:
    low, high = extremes(values, _FLAT_PX)
    return np.asarray((high - low).max(-1) <= _MOST_RANGE)


def _commonest(pixels: NDArray[np.float32]) -> tuple[int, int, int]:
    """The most common colour of (n, 3) pixels: the colour of a flat area, independent of mixtures at its edges."""
    code = int(np.bincount(pixels.astype(np.int64) @ np.array([65536, 256, 1])).argmax())
    return code >> 16, (code >> 8) & 255, code & 255


def _near(pixels: NDArray[np.float32], colour: NDArray[np.float32]) -> Mask:
    return np.square(pixels - colour).sum(1) <= _SAME**2
