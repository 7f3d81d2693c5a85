"""Every thing that a scene can contain: its words, size, colours and possible places.

Defines `THINGS`, by name. `things` and `living` contain the functions that render them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from loraloom.extensions.domains.scenes import living, things
from loraloom.extensions.domains.scenes.pen import COLOURS, RGB, Pen

Lane = Literal["far", "back", "road", "front", "water", "air", "floor"]
"""Which strip of a world a thing belongs to."""

ALL = tuple(COLOURS)
PAINT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")


@dataclass(frozen=True, slots=True)
class Thing:
    """A kind of thing.

    Attributes:
        name, plural: Words of the thing; for a person only the words before `in a red coat`.
        lane: Strip of a world that it belongs to.
        aspect: Width divided by height.
        height: Height at medium size, in pixels of an image of 256.
        colours: Colours that it may have; a caption may omit the colour if there is only one.
        render: Function that renders it.
        most: Largest number of them in a group.
        sized: Whether a caption may call it small or large.
        looks: Whether it faces one side, which a caption may then name.
        kin: Name of the things that a person would count together; a scene has only one thing of a kin. Empty is none.
    """

    name: str
    plural: str
    lane: Lane
    aspect: float
    height: float
    colours: tuple[str, ...]
    render: Callable[[Pen, RGB, RGB, int], None]
    most: int = 4
    sized: bool = True
    looks: bool = False
    kin: str = ""

    @property
    def width(self) -> float:
        """Width at medium size, in pixels of an image of 256."""
        return self.height * self.aspect


_LIST = (
    Thing("house", "houses", "back", 1.0, 92, ("white", *PAINT[:-1], "brown"), things.house, most=3, kin="building"),
    Thing("tower", "towers", "back", 0.46, 126, (*PAINT, "brown"), things.tower, most=3, kin="building"),
    Thing("car", "cars", "road", 2.0, 42, ALL, things.car, looks=True),
    Thing("bus", "buses", "road", 2.0, 56, PAINT, things.bus, most=2, looks=True),
    Thing("boat", "boats", "water", 0.95, 66, ALL, things.boat),
    Thing("tree", "trees", "back", 0.78, 92, ("green", "green", "green", "yellow", "orange", "red", "pink"),
          things.tree, kin="tree"),
    Thing("pine tree", "pine trees", "back", 0.6, 96, ("green",), things.pine, kin="tree"),
    Thing("flower", "flowers", "front", 0.64, 52, (*PAINT,), things.flower),
    Thing("cactus", "cacti", "back", 0.68, 82, ("green",), things.cactus),
    Thing("fence", "fences", "back", 2.8, 32, ("white", "brown", "red", "blue"), things.fence, most=1, sized=False),
    Thing("mountain", "mountains", "far", 1.6, 84, ("blue", "purple", "brown", "green"), things.mountain, most=3),
    Thing("ball", "balls", "front", 1.0, 34, (*PAINT, "black"), things.ball),
    Thing("balloon", "balloons", "air", 0.58, 62, PAINT, things.balloon),
    Thing("umbrella", "umbrellas", "front", 1.0, 74, PAINT, things.umbrella, most=3),
    Thing("tent", "tents", "front", 1.35, 62, (*PAINT, "brown"), things.tent, most=3),
    Thing("snowman", "snowmen", "front", 0.66, 76, ("white",), things.snowman, most=3),
    Thing("chair", "chairs", "floor", 0.72, 72, (*PAINT, "brown", "black"), things.chair, looks=True),
    Thing("table", "tables", "floor", 1.7, 54, (*PAINT, "brown", "black"), things.table, most=2),
    Thing("sofa", "sofas", "floor", 1.8, 62, (*PAINT, "brown", "black"), things.sofa, most=2),
    Thing("lamp", "lamps", "floor", 0.5, 100, PAINT, things.lamp, most=3),
    Thing("person", "people", "front", 0.44, 78, ALL, living.person, sized=False),
    Thing("dog", "dogs", "front", 1.2, 48, ("brown", "black", "white", "orange"), living.dog, looks=True),
    Thing("cat", "cats", "front", 0.9, 46, ("black", "white", "orange", "brown"), living.cat, looks=True),
    Thing("bird", "birds", "air", 1.25, 40, ALL, living.bird, looks=True),
    Thing("fish", "fish", "water", 1.6, 32, ("orange", "yellow", "red", "pink", "purple", "white"), living.fish,
          looks=True),
    Thing("cloud", "clouds", "air", 1.9, 38, ("white",), living.cloud),
    Thing("sun", "suns", "air", 1.0, 54, ("yellow", "yellow", "orange"), living.sun, most=1, kin="light"),
    Thing("moon", "moons", "air", 1.0, 48, ("yellow", "white"), living.moon, most=1, kin="light"),
    Thing("star", "stars", "air", 1.0, 34, ("yellow", "white"), living.star),
)  # fmt: skip

THINGS: dict[str, Thing] = {thing.name: thing for thing in _LIST}
