"""Ten named colours, and a pen for flat shapes in percent of an object's box.

In: a Pillow canvas in fine pixels, a box in image pixels. Out: smooth flat shapes, because the fine image is reduced
afterwards.
"""

import math
from collections.abc import Sequence

from PIL import ImageDraw

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the finished image."""
Point = tuple[float, float]

SIZE = 256
"""Side of a finished image, pixels."""
FINE = 3
"""Fine pixels for one finished pixel, along each side."""

COLOURS: dict[str, RGB] = {
    "red": (214, 48, 44),
    "orange": (243, 140, 30),
    "yellow": (250, 209, 52),
    "green": (62, 152, 66),
    "blue": (46, 104, 206),
    "purple": (132, 68, 172),
    "pink": (245, 148, 184),
    "brown": (128, 82, 46),
    "black": (42, 42, 48),
    "white": (246, 246, 242),
}

GLASS: RGB = (188, 222, 240)
LIT: RGB = (255, 226, 130)
WOOD: RGB = (128, 84, 52)
DARK: RGB = (48, 46, 54)
SKIN: tuple[RGB, ...] = ((246, 208, 174), (226, 172, 128), (168, 112, 74), (112, 74, 52))


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """`first` with `share` (0 .. 1) of `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: RGB, amount: float = 0.2) -> RGB:
    """The colour in shadow; black cannot become darker and becomes lighter."""
    if max(colour) < 70:
        return mixed(colour, (116, 116, 130), amount)
    return mixed(colour, (30, 24, 52), amount)


def tint(colour: RGB, amount: float = 0.35) -> RGB:
    """The colour in light."""
    return mixed(colour, (255, 255, 255), amount)


class Pen:
    """Pen in percent of a box: (0, 0) is its top left corner, (100, 100) its bottom right corner.

    Args:
        canvas: Canvas of the fine image, in mode RGBA for transparent colours.
        box: Box of the object, in image pixels.
        flipped: Whether left and right are exchanged.
        lit: Whether lamps and windows are lit.
    """

    def __init__(self, canvas: ImageDraw.ImageDraw, box: Box, flipped: bool = False, lit: bool = False) -> None:
        self._canvas = canvas
        self._left, self._top = box[0] * FINE, box[1] * FINE
        self._width = (box[2] - box[0]) * FINE / 100
        self._height = (box[3] - box[1]) * FINE / 100
        self._flipped = flipped
        self.glass = LIT if lit else GLASS

    def _at(self, x: float, y: float) -> Point:
        return self._left + (100 - x if self._flipped else x) * self._width, self._top + y * self._height

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        (x_0, y_0), (x_1, y_1) = self._at(left, top), self._at(right, bottom)
        return min(x_0, x_1), min(y_0, y_1), max(x_0, x_1), max(y_0, y_1)

    def poly(self, points: Sequence[Point], fill: RGB) -> None:
        """A filled polygon."""
        self._canvas.polygon([self._at(x, y) for x, y in points], fill=fill)

    def oval(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        """A filled ellipse."""
        self._canvas.ellipse(self._box(left, top, right, bottom), fill=fill)

    def rect(self, left: float, top: float, right: float, bottom: float, fill: RGB, radius: float = 0) -> None:
        """A filled rectangle; `radius` is that of its corners in percent of the box's height."""
        box = self._box(left, top, right, bottom)
        if radius:
            self._canvas.rounded_rectangle(box, radius * self._height, fill=fill)
        else:
            self._canvas.rectangle(box, fill=fill)

    def slice(self, left: float, top: float, right: float, bottom: float, angles: Point, fill: RGB) -> None:
        """A filled piece of an ellipse between two angles (degrees clockwise from the right), cut by the chord."""
        start, end = (180 - angles[1], 180 - angles[0]) if self._flipped else angles
        self._canvas.chord(self._box(left, top, right, bottom), start, end, fill=fill)

    def line(self, points: Sequence[Point], fill: RGB, width: float) -> None:
        """A line with round joints; `width` in percent of the box's height."""
        self._canvas.line(
            [self._at(x, y) for x, y in points], fill=fill, width=max(1, round(width * self._height)), joint="curve"
        )


def ring(centre: Point, radius: Point, count: int, turn: float = 0.0) -> list[Point]:
    """`count` points on an ellipse, the first one `turn` degrees clockwise from the top."""
    found: list[Point] = []
    for number in range(count):
        angle = math.radians(turn + 360 * number / count)
        found.append((centre[0] + radius[0] * math.sin(angle), centre[1] - radius[1] * math.cos(angle)))
    return found
