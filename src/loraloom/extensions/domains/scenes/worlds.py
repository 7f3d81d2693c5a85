"""The places of scenes: their strips of ground, the things found there, and functions that paint them.

In: a world, a time of day and a number that selects details. Out: the fine image of its sky, and the ground over it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from loraloom.extensions.domains.scenes.pen import COLOURS, FINE, RGB, SIZE, Point, mixed, shade, tint

Span = tuple[float, float]
NIGHT: RGB = (24, 30, 74)

SKIES: dict[str, tuple[RGB, RGB]] = {
    "day": ((116, 184, 240), (214, 238, 252)),
    "sunset": ((236, 118, 96), (255, 210, 150)),
    "night": ((18, 22, 58), (64, 70, 130)),
}
"""The sky's colours above and at the horizon, by time of day."""
SKY_WORD = {"day": "blue", "sunset": "orange", "night": "dark"}


class Ground:
    """Paints on the fine image in colours of the time of day."""

    def __init__(self, image: Image.Image, time: str, detail: np.random.Generator) -> None:
        self._draw = ImageDraw.Draw(image, "RGBA")
        self.time = time
        self.detail = detail

    def lit(self, colour: RGB) -> RGB:
        """The colour at this time of day."""
        share = {"night": 0.58, "sunset": 0.14}.get(self.time, 0.0)
        return mixed(colour, NIGHT if self.time == "night" else (240, 110, 70), share)

    def band(self, top: float, bottom: float, colour: RGB) -> None:
        """Paint a strip over the whole width."""
        self._draw.rectangle((0, top * FINE, SIZE * FINE, bottom * FINE), fill=self.lit(colour))

    def poly(self, points: list[Point], colour: RGB) -> None:
        """Paint a polygon in pixels of the finished image."""
        self._draw.polygon([(x * FINE, y * FINE) for x, y in points], fill=self.lit(colour))

    def hill(self, height: float, depth: float, waves: float, colour: RGB) -> None:
        """Paint ground with a wavy upper edge at about `height`."""
        start = float(self.detail.uniform(0, 6.28))
        xs = np.linspace(0, SIZE, 33)
        ys = height + depth * np.sin(start + xs / SIZE * 6.28 * waves)
        self.poly([(0, SIZE), *zip(xs.tolist(), ys.tolist(), strict=True), (SIZE, SIZE)], colour)

    def specks(self, count: int, top: float, bottom: float, size: Span, colour: RGB) -> None:
        """Paint flat dashes scattered over a strip: tufts, ripples, stones."""
        x, y = self.detail.uniform(0, SIZE, count), self.detail.uniform(top, bottom, count)
        width, height = size
        for left, above in zip(x.tolist(), y.tolist(), strict=True):
            box = (left * FINE, above * FINE, (left + width) * FINE, (above + height) * FINE)
            self._draw.ellipse(box, fill=self.lit(colour))


GRASS: RGB = (142, 200, 98)
SAND: RGB = (240, 216, 158)
WATER: RGB = (74, 158, 200)
SNOW: RGB = (208, 222, 240)
ROAD: RGB = (124, 126, 136)


def _meadow(ground: Ground) -> None:
    ground.hill(142, 4, 1.0, shade(GRASS, 0.1))
    ground.hill(176, 6, 0.8, GRASS)
    ground.specks(40, 186, 252, (5, 1.6), shade(GRASS, 0.16))


def _hills(ground: Ground) -> None:
    ground.hill(130, 10, 1.4, mixed(GRASS, (150, 190, 220), 0.35))
    ground.hill(158, 12, 1.1, shade(GRASS, 0.12))
    ground.hill(190, 9, 0.9, GRASS)


def _street(ground: Ground) -> None:
    ground.band(140, 256, GRASS)
    ground.band(172, 184, (206, 202, 196))
    ground.band(184, 236, ROAD)
    ground.band(184, 186.5, (176, 174, 172))
    ground.band(236, 256, (206, 202, 196))
    for left in range(6, 256, 44):
        ground.poly([(left, 208), (left + 24, 208), (left + 24, 212), (left, 212)], (244, 240, 222))


def _city(ground: Ground) -> None:
    left = -6.0
    while left < SIZE:
        width, top = float(ground.detail.uniform(16, 34)), float(ground.detail.uniform(62, 128))
        far = mixed((168, 180, 204), (190, 200, 220), float(ground.detail.random()))
        ground.poly([(left, 190), (left, top), (left + width, top), (left + width, 190)], far)
        left += width
    ground.band(176, 190, (206, 202, 196))
    ground.band(190, 240, ROAD)
    ground.band(240, 256, (206, 202, 196))
    for start in range(10, 256, 44):
        ground.poly([(start, 213), (start + 24, 213), (start + 24, 217), (start, 217)], (244, 240, 222))


def _sea(ground: Ground) -> None:
    ground.band(118, 256, WATER)
    ground.band(118, 140, tint(WATER, 0.18))
    ground.band(200, 256, shade(WATER, 0.1))
    ground.specks(34, 130, 250, (13, 1.6), tint(WATER, 0.45))


def _beach(ground: Ground) -> None:
    ground.band(112, 180, WATER)
    ground.specks(16, 120, 160, (11, 1.4), tint(WATER, 0.45))
    ground.hill(166, 3, 1.5, (246, 248, 246))
    ground.hill(171, 3, 1.5, SAND)
    ground.specks(40, 184, 252, (2, 1.2), shade(SAND, 0.18))


def _winter(ground: Ground) -> None:
    ground.hill(146, 7, 1.2, mixed(SNOW, (170, 190, 220), 0.3))
    ground.hill(178, 6, 0.8, SNOW)
    ground.specks(60, 6, 250, (2.6, 2.6), (252, 253, 255))


def _desert(ground: Ground) -> None:
    ground.hill(144, 9, 1.2, shade(SAND, 0.14))
    ground.hill(180, 7, 0.9, SAND)
    ground.specks(26, 190, 250, (7, 1.4), shade(SAND, 0.14))


def _room(ground: Ground) -> None:
    walls: tuple[RGB, ...] = ((246, 232, 206), (206, 226, 236), (214, 232, 208), (240, 216, 216), (226, 220, 238))
    ground.band(0, 180, walls[int(ground.detail.integers(len(walls)))])
    ground.band(174, 180, (250, 248, 244))
    floor: RGB = (204, 164, 122)
    ground.band(180, 256, floor)
    for top in (196, 216, 238):
        ground.band(top, top + 1, shade(floor, 0.2))


@dataclass(frozen=True, slots=True)
class World:
    """A place.

    Attributes:
        phrases: Phrases of captions for the place.
        fact: Sentence about its ground.
        lanes: Highest and lowest foot of a thing, in pixels, by lane.
        paint: Function that paints everything except the sky.
        things: Names of the things found there; a repeated name is more likely.
        clashes: Colours that are not visible on its ground.
        times: Times of day; a repeated one is more likely.
        distance: Whether things may be far away.
        horizon: Lower edge of the sky in pixels; 0 indoors.
    """

    phrases: tuple[str, ...]
    fact: str
    lanes: Mapping[str, Span]
    paint: Callable[[Ground], None]
    things: tuple[str, ...]
    clashes: tuple[str, ...] = ()
    horizon: float = 140
    times: tuple[str, ...] = ("day", "day", "day", "sunset", "night")
    distance: bool = False


_COUNTRY = ("house", "tree", "pine tree", "person", "dog", "cat", "flower", "ball", "fence", "mountain", "car", "tent")
_OPEN = {"far": (148, 154), "back": (176, 192), "road": (212, 236), "front": (214, 248)}

WORLDS: dict[str, World] = {
    "meadow": World(
        ("in a meadow", "on the grass"), "the grass is green", _OPEN, _meadow,
        (*_COUNTRY, "flower", "flower"), distance=True,
    ),
    "hills": World(
        ("in the hills",), "the hills are green", {**_OPEN, "far": (138, 144)}, _hills,
        (*_COUNTRY, "mountain"), distance=True,
    ),
    "street": World(
        ("on a street", "in the street"), "the road is grey", {"back": (170, 174), "road": (206, 230), "front": (240, 250)},
        _street, ("car", "car", "car", "bus", "house", "house", "tree", "person", "dog", "cat", "ball"),
    ),
    "city": World(
        ("in the city",), "there is a road in the city", {"back": (182, 186), "road": (212, 234), "front": (242, 250)},
        _city, ("car", "car", "bus", "tower", "tower", "house", "person", "dog", "tree"),
    ),
    "sea": World(
        ("at sea", "on the sea"), "the sea is blue", {"water": (166, 240), "far": (121, 122)}, _sea,
        ("boat", "boat", "boat", "fish", "mountain"), ("blue",), 118, distance=True,
    ),
    "beach": World(
        ("at the beach", "on the beach"), "the sand is yellow", {"water": (136, 152), "front": (200, 246), "far": (113, 114)},
        _beach, ("boat", "boat", "umbrella", "umbrella", "ball", "person", "dog", "tent"), ("blue",), 112,
    ),
    "winter": World(
        ("in the snow", "in winter"), "the ground is covered with snow", {**_OPEN, "far": (154, 160)}, _winter,
        ("snowman", "snowman", "house", "pine tree", "person", "dog", "fence", "mountain", "car"),
        ("white",), 146, distance=True,
    ),
    "desert": World(
        ("in the desert",), "the sand is yellow", {**_OPEN, "far": (154, 160)}, _desert,
        ("cactus", "cactus", "tent", "person", "car", "mountain", "dog"),
        (), 144, distance=True,
    ),
    "room": World(
        ("in a room", "inside a room"), "the floor is brown", {"floor": (194, 212), "front": (222, 248)}, _room,
        ("chair", "chair", "table", "sofa", "lamp", "cat", "dog", "ball", "person"), ("brown",), 0, ("day",),
    ),
}  # fmt: skip


def sky(world: str, time: str, detail: int) -> Image.Image:
    """A fine RGB image of the sky only, over the whole height."""
    side = SIZE * FINE
    horizon = max(1, round(WORLDS[world].horizon * FINE))
    above, below = (np.asarray(colour, np.float32) for colour in SKIES[time])
    share = np.clip(np.arange(side, dtype=np.float32) / horizon, 0, 1)[:, None]
    column = (above + (below - above) * share).astype(np.uint8)[:, None, :]
    image = Image.fromarray(column).resize((side, side))
    if time == "night":
        stars = Ground(image, "day", np.random.default_rng(detail))
        stars.specks(36, 2, WORLDS[world].horizon - 10, (1.5, 1.5), (190, 196, 226))
    return image


def paint_ground(image: Image.Image, world: str, time: str, detail: int) -> None:
    """Paint a world's ground, or its room, over a fine image of its sky and its far things."""
    WORLDS[world].paint(Ground(image, time, np.random.default_rng(detail + 1)))


def plain_backdrop(colour: str) -> Image.Image:
    """A fine RGB image of one named colour."""
    return Image.new("RGB", (SIZE * FINE, SIZE * FINE), COLOURS[colour])
