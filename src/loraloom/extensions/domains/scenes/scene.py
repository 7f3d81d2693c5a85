"""The content of a scene; places, relations and directions are computed from the boxes, never stored.

In: records of things with their boxes. Out: the words that a caption may use for them, and a truth record for files.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loraloom.extensions.domains.scenes.catalogue import THINGS, Thing
from loraloom.extensions.domains.scenes.pen import SIZE, Box

LEFT_ENDS, RIGHT_STARTS = 100.0, 156.0
"""A thing with its centre left of the first is on the left, right of the second on the right. Symmetric for mirroring."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing in the image. `variant` selects details that no caption names."""

    box: Box
    flipped: bool
    variant: int

    @property
    def centre(self) -> float:
        """Horizontal, pixels."""
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Things of one kind and colour that a caption names together.

    Attributes:
        thing: Name in `THINGS`.
        colour, second: Names of colours; the second is that of a roof or a scarf, empty if there is none.
        size: `small`, `large`, or empty for medium.
        depth: `far`, `near` or empty.
    """

    thing: str
    colour: str
    second: str
    size: str
    depth: str
    items: tuple[Placed, ...]

    @property
    def kind(self) -> Thing:
        """The catalogue entry of the thing."""
        return THINGS[self.thing]

    @property
    def place(self) -> str:
        """`left`, `right`, `middle`, or empty if its things are in several places."""
        centres = [item.centre for item in self.items]
        if max(centres) < LEFT_ENDS:
            return "left"
        if min(centres) > RIGHT_STARTS:
            return "right"
        if min(centres) >= LEFT_ENDS + 8 and max(centres) <= RIGHT_STARTS - 8:
            return "middle"
        return ""

    @property
    def facing(self) -> str:
        """`left` or `right` if all of its things face that side; else empty."""
        sides = {item.flipped for item in self.items}
        if not self.kind.looks or len(sides) > 1:
            return ""
        return "left" if True in sides else "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that an image shows and a caption may say.

    Attributes:
        seed: Seed of the scene.
        world: Name in `WORLDS`; empty on a plain background.
        background: Name of the plain background's colour; empty in a world.
        time: `day`, `sunset` or `night`; `day` indoors and on plain backgrounds.
        detail: Seed of details of the backdrop that no caption names.
        groups: Groups of things; no two have the same thing and colour.
    """

    seed: int
    world: str
    background: str
    time: str
    detail: int
    groups: tuple[Group, ...]


def relation(group: Group, anchor: Group) -> str:
    """The relation of two single things: `above`, `in front of`, `next to`, `to the left of`, `to the right of` or empty.

    The sentence reads "<group> <relation> <anchor>".
    """
    if len(group.items) != 1 or len(anchor.items) != 1 or group.kind.lane == "far" or anchor.kind.lane == "far":
        return ""
    here, there = group.items[0].box, anchor.items[0].box
    centre = group.items[0].centre
    aloft = group.kind.lane == "air", anchor.kind.lane == "air"
    if aloft == (True, False) and there[0] <= centre <= there[2] and here[3] <= there[1] + 1:
        return "above"
    if aloft != (False, False) or group.depth or anchor.depth:
        return ""
    if there[0] <= centre <= there[2] and there[3] + 6 <= here[3] and here[1] < there[3] + 16:
        return "in front of"
    gap = max(here[0] - there[2], there[0] - here[2])
    if 0 <= gap < 26 and abs(here[3] - there[3]) < 30:
        return "next to"
    if gap > 0 and abs(centre - anchor.items[0].centre) > 48:
        return "to the left of" if here[2] <= there[0] else "to the right of"
    return ""


def in_a_row(group: Group) -> bool:
    """Whether the group is three or more things beside each other at one height."""
    feet = [item.box[3] for item in group.items]
    ordered = sorted(item.box for item in group.items)
    apart = all(0 <= right[0] - left[2] < 30 for left, right in pairwise(ordered))
    return len(feet) >= 3 and max(feet) - min(feet) < 8 and apart


def truth(scene: Scene) -> dict[str, Any]:
    """The scene as a JSON record: boxes in whole pixels of the image, the last two numbers exclusive."""
    return {
        "world": scene.world,
        "background": scene.background,
        "time": scene.time if scene.world else "",
        "groups": [
            {
                "thing": group.thing,
                "colour": group.colour,
                "second_colour": group.second,
                "count": len(group.items),
                "size": group.size,
                "depth": group.depth,
                "place": group.place,
                "facing": group.facing,
                "boxes": [_whole(item.box) for item in group.items],
            }
            for group in scene.groups
        ],
    }


def _whole(box: Box) -> list[int]:
    low, high = [int(max(0, value)) for value in box[:2]], [int(min(SIZE, -(-value // 1))) for value in box[2:]]
    return [*low, *high]
