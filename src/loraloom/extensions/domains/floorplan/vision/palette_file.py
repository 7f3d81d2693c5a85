"""A palette file of the user: the class of each colour of an image.

In: a JSON file such as {"external": "#000000", "wall": "#5f5f5f", "bedroom": ["#ffd274", "#fde68a"]}. Out: a `Palette`:
a style for reading, and images recoloured for it. Classes that are not named do not occur. Every mistake is one
`UserError`.
"""

import json
import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import Shown, parse_json, read_text, shown

from ..vocabulary import CLASS_NAMES, EXTERNAL, ROOM_TYPES, WALL, Style, hex_of
from .flat_colours import Known
from .pixels import Labels

_MAX_BYTES = 64 << 10
_MOST_COLOURS = 64
LEAST_APART = 8.0
"""Smallest distance (Euclidean) between the colours of two classes in an image that is not exact, because the reader's
tables have cells of four values a channel."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_FIX = 'write such as {"external": "#ffffff", "wall": "#5f5f5f", "bedroom": ["#1e8c32", "#ffd274"]}'

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of each class, as the user gave them.

    Attributes:
        name: Name of the file, for messages.
        colours: Class (index into `CLASS_NAMES`) to its colours, all of which are read as the first one. Contains at
            least the outside, the wall and one room.
    """

    name: str
    colours: dict[int, tuple[Rgb, ...]]

    @property
    def style(self) -> Style:
        """The style for reading. A class without a colour gets that of the outside or of the wall, which wins every tie."""
        outside, wall = self.colours[EXTERNAL][0], self.colours[WALL][0]
        firsts = [
            self.colours[label][0] if label in self.colours else (wall if label > WALL else outside)
            for label in range(len(CLASS_NAMES))
        ]
        return Style(f"palette {self.name}", "", tuple(firsts))

    @property
    def known(self) -> Known:
        """All colours, to find the foreign colours of an image."""
        large = [rgb for label, each in self.colours.items() if label < WALL for rgb in each]
        thin = [rgb for label, each in self.colours.items() if label >= WALL for rgb in each]
        return Known(np.array(large, np.float32), np.array(thin, np.float32))

    def exact_labels(self, rgb: NDArray[np.uint8]) -> Labels | None:
        """(h, w) pixel classes of an (h, w, 3) image that has only colours of the palette, else None."""
        codes = rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        labels, known = np.zeros(codes.shape, np.uint8), np.zeros(codes.shape, np.bool_)
        for label, each in self.colours.items():
            same = np.isin(codes, [(red << 16) + (green << 8) + blue for red, green, blue in each])
            labels[same], known = label, known | same
        return labels if known.all() else None

    def check_distance(self) -> None:
        """Check that the colours of two classes differ enough for an image that is not exact.

        Raises:
            UserError: Two classes' colours are too near each other.
        """
        rows = [(label, rgb) for label, each in self.colours.items() for rgb in each]
        for (label, rgb), (other, colour) in combinations(rows, 2):
            if label != other and np.linalg.norm(np.subtract(rgb, colour)) < LEAST_APART:
                raise UserError(
                    f"the image is not exactly in the colours of {self.name}, and there {CLASS_NAMES[label]!r} and"
                    f" {CLASS_NAMES[other]!r} are too similar",
                    got=Shown(f"{hex_of(rgb)} and {hex_of(colour)}"),
                    fix="give the original image: a PNG, not resized",
                )

    def unify(self, image: Image.Image) -> Image.Image:
        """An RGB image in which every other colour of a class is shifted to the first; noise on it is kept."""
        rows = [(label, rgb) for label, each in self.colours.items() for rgb in each]
        if len(rows) == len(self.colours):
            return image
        pixels = np.asarray(image)
        table = np.array([rgb for _, rgb in rows], np.int32)
        firsts = np.array([self.colours[label][0] for label, _ in rows], np.int32)
        nearest = _nearest(pixels, table)
        moved = pixels.astype(np.int32) + (firsts - table)[nearest]
        return Image.fromarray(np.clip(moved, 0, 255).astype(np.uint8))


def _nearest(pixels: NDArray[np.uint8], table: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Index of the nearest row of the table for each pixel; computed row by row to bound the memory."""
    values = pixels.astype(np.int32)
    best = np.full(pixels.shape[:2], np.iinfo(np.int32).max, np.int32)
    index = np.zeros(pixels.shape[:2], np.uint8)
    for row, colour in enumerate(table):
        apart = np.square(values - colour).sum(-1, dtype=np.int32)
        closer = apart < best
        best[closer], index[closer] = apart[closer], row
    return index


def load_palette(path: Path) -> Palette:
    """Read the palette of a file.

    Raises:
        UserError: The file cannot be read; a class is unknown, named twice or without a colour; a value is not a colour; two
            classes have the same colour; the outside, the wall or every room is missing.
    """
    what = f"the palette {path.name}"
    text = read_text(path, what, max_bytes=_MAX_BYTES)
    given = parse_json(text, what)
    if not isinstance(given, dict):
        raise UserError(f"{what} is not a JSON object", got=shown(given), fix=_FIX)
    _refuse_twice(text, what)
    colours: dict[int, tuple[Rgb, ...]] = {}
    for name, value in cast("dict[str, Any]", given).items():
        if name not in CLASS_NAMES:
            raise UserError(f"unknown class in {what}", got=name[:40], fix=did_you_mean(name[:40], CLASS_NAMES))
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not values:
            raise UserError(f"{what} gives {name!r} no colour", fix="give one, or leave the class out")
        colours[CLASS_NAMES.index(name)] = tuple(dict.fromkeys(_rgb(each, name, what) for each in values))
    _check(colours, what)
    return Palette(path.name, colours)


def _refuse_twice(text: str, what: str) -> None:
    """Refuse duplicate keys: JSON's reader would keep the last one and lose the first."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"{what} names a class twice", got=twice[:40], fix='give all colours in one list: ["#…", "#…"]'
            )
        return dict(pairs)

    json.loads(text, object_pairs_hook=once)


def _rgb(value: Any, name: str, what: str) -> Rgb:
    if not isinstance(value, str) or not _COLOUR.fullmatch(value):
        raise UserError(f"{what}: {name} has no colour there", got=shown(value), expected='such as "#1e8c32"')
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def _check(colours: dict[int, tuple[Rgb, ...]], what: str) -> None:
    for label in (EXTERNAL, WALL):
        if label not in colours:
            raise UserError(f"{what} has no colour for {CLASS_NAMES[label]!r}", fix=_FIX)
    if not any(1 <= label <= len(ROOM_TYPES) for label in colours):
        raise UserError(f"{what} has no colour for any room", expected="one of " + ", ".join(ROOM_TYPES), fix=_FIX)
    rows = [(label, rgb) for label, each in colours.items() for rgb in each]
    if len(rows) > _MOST_COLOURS:
        raise UserError(f"{what} has too many colours", got=len(rows), expected=f"at most {_MOST_COLOURS}")
    for (label, rgb), (other, colour) in combinations(rows, 2):
        if rgb == colour:
            raise UserError(
                f"{what} gives {CLASS_NAMES[label]!r} and {CLASS_NAMES[other]!r} one colour",
                got=Shown(hex_of(rgb)),
                fix="a class may have several colours, but a colour only one class",
            )
