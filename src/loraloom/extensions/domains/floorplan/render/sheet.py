"""A sheet to render on: an image below, smooth marks above it, text on top.

In: shapes and words in pixels of the sheet, in any order. Out: an RGB image whose marks have soft edges. Marks are
stacked in the order in which they were added, all text lies above all marks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import hypot

from PIL import Image, ImageDraw, ImageFont

from .lettering import font

Colour = tuple[int, int, int]
Point = tuple[float, float]
Frame = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the sheet."""

INK, SOFT, FAINT, PAPER = (24, 29, 38), (92, 101, 115), (222, 226, 232), (255, 255, 255)
GREEN, RED, GREY, AMBER = (18, 128, 62), (213, 31, 46), (98, 106, 118), (196, 98, 0)

_FINE = 2
"""Marks and words are rendered at this multiple of their size and reduced, which softens edges and spaces letters
evenly."""


@dataclass(frozen=True, slots=True)
class _Words:
    at: Point
    text: str
    size: int
    colour: Colour
    bold: bool
    anchor: str
    upright: bool


def width_of(text: str, size: int, bold: bool = False) -> float:
    """Width of a line of text in pixels."""
    return sum(_advance(letter, size, bold) for letter in text)


@cache
def _advance(letter: str, size: int, bold: bool) -> float:
    """Letters side by side without kerning: Pillow's own layout kerns by a table that the font does not have."""
    return font(size * _FINE, bold).getlength(letter) / _FINE


def wrapped(text: str, size: int, width: float, bold: bool = False) -> list[str]:
    """Lines of at most `width` pixels, broken between words, and within a word only where the word alone is too
    long."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width_of(longer, size, bold) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while len(line) > 1 and width_of(line, size, bold) > width:
            beyond = bisect_right(range(len(line)), width, key=lambda n: width_of(line[:n], size, bold))
            kept = max(1, beyond - 1)
            lines.append(line[:kept])
            line = line[kept:]
    return [*lines, line] if line else lines


class Sheet:
    """Collects marks and words.

    Args:
        width: Width of the sheet, pixels.
        height: Height of the sheet, pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._base = Image.new("RGB", (width, height), PAPER)
        self._marks = Image.new("RGBA", (width * _FINE, height * _FINE), (*PAPER, 0))
        self._pen = ImageDraw.Draw(self._marks)
        self._words: list[_Words] = []

    def image(self, image: Image.Image, x: int, y: int) -> None:
        """Put an image below all marks."""
        self._base.paste(image, (x, y))

    def text(
        self,
        at: Point,
        text: str,
        size: int,
        colour: Colour = INK,
        *,
        bold: bool = False,
        anchor: str = "ls",
        upright: bool = False,
    ) -> None:
        """A line of text; `anchor` as in Pillow, `upright` text runs upwards around its middle."""
        self._words.append(_Words(at, text, size, colour, bold, anchor, upright))

    def box(
        self,
        frame: Frame,
        fill: Colour | None = None,
        line: Colour | None = None,
        width: float = 1.0,
        radius: float = 0.0,
    ) -> None:
        """A rectangle with round corners."""
        left, top, right, bottom = (round(value * _FINE) for value in frame)
        radius = min(radius * _FINE, (right - left) / 2, (bottom - top) / 2)
        self._pen.rounded_rectangle(
            (left, top, right - 1, bottom - 1), radius, fill=fill, outline=line, width=max(1, round(width * _FINE))
        )

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A polyline with round ends."""
        fine = [(x * _FINE, y * _FINE) for x, y in points]
        thick = max(1, round(width * _FINE))
        self._pen.line(fine, fill=colour, width=thick, joint="curve")
        for x, y in (fine[0], fine[-1]):
            self._pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def dashes(
        self, start: Point, stop: Point, colour: Colour, width: float, dash: float = 13.0, gap: float = 9.0
    ) -> None:
        """A dashed line that begins and ends with a dash, on a white line so that it shows on every colour."""
        length = hypot(stop[0] - start[0], stop[1] - start[1])
        if length < 1:
            return
        self.line((start, stop), PAPER, width + 4)
        pieces = max(1, round((length + gap) / (dash + gap)))
        dash = max(width, (length + gap) / pieces - gap)
        along = (stop[0] - start[0]) / length, (stop[1] - start[1]) / length
        for piece in range(pieces):
            ends = [piece * (dash + gap), min(length, piece * (dash + gap) + dash)]
            self.line([(start[0] + along[0] * at, start[1] + along[1] * at) for at in ends], colour, width)

    def ring(self, frame: Frame, colour: Colour, width: float = 4.0) -> None:
        """A rounded frame with a white halo on both sides."""
        left, top, right, bottom = frame
        radius = min(right - left, bottom - top) / 2
        self.box((left - 2, top - 2, right + 2, bottom + 2), None, PAPER, width + 4, radius + 2)
        self.box(frame, None, colour, width, radius)

    def badge(self, frame: Frame, text: str, colour: Colour, size: int = 14) -> None:
        """White words on a colour."""
        left, top, right, bottom = frame
        self.box((left - 2, top - 2, right + 2, bottom + 2), PAPER, radius=bottom - top)
        self.box(frame, colour, radius=(bottom - top) / 2)
        self.text(((left + right) / 2, (top + bottom) / 2), text, size, PAPER, bold=True, anchor="mm")

    def verdict(self, centre: Point, met: bool | None, size: float = 18.0) -> None:
        """A disc with a tick, a cross or a question mark."""
        x, y = centre
        half = size / 2
        colour = verdict_colour(met)
        self.box((x - half, y - half, x + half, y + half), colour, radius=half)
        pen = size / 8
        if met is None:
            self.text((x, y), "?", round(size * 0.8), PAPER, bold=True, anchor="mm")
        elif met:
            spots = ((-0.24, 0.02), (-0.07, 0.19), (0.25, -0.18))
            self.line([(x + dx * size, y + dy * size) for dx, dy in spots], PAPER, pen)
        else:
            reach = 0.18 * size
            self.line(((x - reach, y - reach), (x + reach, y + reach)), PAPER, pen)
            self.line(((x - reach, y + reach), (x + reach, y - reach)), PAPER, pen)

    def finish(self) -> Image.Image:
        """The rendered image."""
        for words in self._words:
            face, at = font(words.size * _FINE, words.bold), (words.at[0] * _FINE, words.at[1] * _FINE)
            if words.upright:
                self._upright(words, face, at)
            else:
                self._pen.text(at, words.text, words.colour, face, anchor=words.anchor)
        marks = self._marks.reduce(_FINE)
        self._base.paste(marks, mask=marks.getchannel("A"))
        return self._base

    def _upright(self, words: _Words, face: ImageFont.FreeTypeFont, at: Point) -> None:
        width, height = round(face.getlength(words.text)) + 4, round(words.size * _FINE * 1.6)
        stencil = Image.new("L", (width, height))
        ImageDraw.Draw(stencil).text((width / 2, height / 2), words.text, 255, face, anchor="mm")
        stencil = stencil.transpose(Image.Transpose.ROTATE_90)
        place = round(at[0] - height / 2), round(at[1] - width / 2)
        self._marks.paste(Image.new("RGBA", stencil.size, words.colour), place, stencil)


def verdict_colour(met: bool | None) -> Colour:
    """Green for met, red for not met, grey for undecided."""
    return GREEN if met else GREY if met is None else RED
