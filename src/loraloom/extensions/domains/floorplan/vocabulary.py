"""The words and colours of floor plans: room types, directions, pixel classes, styles.

Constants that text, image and reader share. The words, their order and the palette `sjh` are those
of JongHwa-Shim/text-to-image-generation (its texts, `configs/train_config.yaml`, `src/inference/post_processor.py`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZE_PX = 256
"""Side of a plan image in pixels. All lengths in pixels refer to this grid."""

M_PER_PX = 18 / SIZE_PX
"""RPLAN's scale: 256 pixels are 18 m."""

ROOM_TYPES = (
    "living room",
    "master room",
    "kitchen",
    "bathroom",
    "bedroom",
    "balcony",
    "storage",
    "entrance",
)
"""Room types in the order of the counts line. The pixel class of a room is its index here plus 1."""

_PAIR_ORDER = (
    "living room",
    "master room",
    "bedroom",
    "kitchen",
    "bathroom",
    "balcony",
    "storage",
    "entrance",
)
"""Room types in the order of rooms within a sentence and of sentences within a section."""

EXTERNAL, WALL, FRONT_DOOR, DOOR, WINDOW = 0, 9, 10, 11, 12
"""Pixel classes that are not rooms; 1 .. 8 are the room types."""

CLASS_NAMES = ("external", *ROOM_TYPES, "wall", "front door", "interior door", "window")
NUM_CLASSES = len(CLASS_NAMES)
ROOM_CLASSES = range(1, len(ROOM_TYPES) + 1)
BALCONY = CLASS_NAMES.index("balcony")
"""The only room that may be narrower than seven pixels."""

DIRECTIONS = (
    "right-of",
    "right-below",
    "below",
    "left-below",
    "left-of",
    "left-above",
    "above",
    "right-above",
)
"""Directions by octant of the vector to the subject, clockwise on the image from the x axis, 45 degrees each."""

OFFSETS = {
    "right-of": (1, 0),
    "right-below": (1, 1),
    "below": (0, 1),
    "left-below": (-1, 1),
    "left-of": (-1, 0),
    "left-above": (-1, -1),
    "above": (0, -1),
    "right-above": (1, -1),
}
"""Direction of the subject as seen from the object: signs of x (right) and y (down)."""

_BY_OFFSET = {offset: name for name, offset in OFFSETS.items()}


def inverse(direction: str) -> str:
    """The direction of B from A when A is `direction` B."""
    x, y = OFFSETS[direction]
    return _BY_OFFSET[-x, -y]


def mirrored(direction: str) -> str:
    """The direction in an image whose left and right are exchanged."""
    x, y = OFFSETS[direction]
    return _BY_OFFSET[-x, y]


def turned(direction: str) -> str:
    """The direction in an image turned by 90 degrees clockwise."""
    x, y = OFFSETS[direction]
    return _BY_OFFSET[-y, x]


def hex_of(colour: tuple[int, int, int]) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


class RoomId(NamedTuple):
    """A room by type and number; numbers start at 1 and follow the raster order of the rooms' first pixels."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} #{self.number}"

    @property
    def rank(self) -> tuple[int, int]:
        """Sorting key: order of the type in sentences, then number."""
        return _PAIR_ORDER.index(self.kind), self.number

    @property
    def pixel_class(self) -> int:
        """1 .. 8."""
        return ROOM_TYPES.index(self.kind) + 1


@dataclass(frozen=True)
class Style:
    """One style of rendered plans.

    Attributes:
        name: Key of the style in `STYLES`.
        header: First words of the style's texts.
        colours: RGB of each pixel class, 0 .. 255.
    """

    name: str
    header: str
    colours: tuple[tuple[int, int, int], ...]

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """(13, 3) uint8."""
        return np.array(self.colours, np.uint8)


STYLES = {
    "sjh": Style(
        "sjh",
        "SJH-Style FloorPlan Generation",
        (
            (255, 255, 255), (255, 255, 220), (0, 255, 0), (190, 90, 90), (66, 78, 255), (30, 140, 50), (50, 180, 255),
            (210, 210, 90), (0, 200, 100), (95, 95, 95), (255, 255, 0), (160, 100, 0), (125, 190, 190),
        ),
    ),
    "plain": Style(
        "plain",
        "Plain FloorPlan Generation",
        (
            (226, 226, 226), (250, 250, 246), (246, 178, 138), (238, 220, 120), (150, 196, 236), (236, 156, 190),
            (176, 222, 168), (196, 170, 226), (170, 150, 120), (20, 20, 28), (200, 30, 30), (0, 200, 60), (90, 130, 200),
        ),
    ),
}  # fmt: skip
"""`sjh`: the palette of real pairs. `plain`: the style that the built-in base was trained on; its doors are far from every
mixture of two other colours, so that soft images are read well."""


def style_of(text: str) -> Style:
    """The style whose header begins the text; `sjh` when there is none."""
    start = text.lstrip().lower()
    return next((style for style in STYLES.values() if start.startswith(style.header.lower())), STYLES["sjh"])
