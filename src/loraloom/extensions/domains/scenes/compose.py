"""Compose a scene from a seed: which things, their number, colours and places.

In: a seed. Out: a `Scene` whose things hardly hide each other, so that every word of a caption is visible.
"""

from dataclasses import dataclass, field

import numpy as np

from loraloom.extensions.domains.scenes.catalogue import THINGS, Thing
from loraloom.extensions.domains.scenes.pen import COLOURS, SIZE, Box
from loraloom.extensions.domains.scenes.scene import Group, Placed, Scene
from loraloom.extensions.domains.scenes.worlds import WORLDS, World
from loraloom.utils.rng import derive_seed

MARGIN = 5
SCALE = {"small": 0.6, "": 1.0, "large": 1.45}
SECOND = {"house": ("red", "brown", "black", "blue", "green", "orange"), "snowman": ("red", "blue", "green", "purple")}
"""Things with a second colour that captions name, and the possible second colours."""
MOST_HIDDEN = 0.04
_PLAIN = tuple(name for name in THINGS if name not in {"cloud", "fence"})
_FRONTS = {"road", "front"}
_BACKS = {"house", "tower", "tree", "sofa", "bus", "table", "tent"}


@dataclass(slots=True, kw_only=True)
class _Builder:
    """A scene that is being composed."""

    pick: np.random.Generator
    world: World | None
    time: str
    background: str = ""
    groups: list[Group] = field(default_factory=list[Group])

    def rng(self, share: float) -> bool:
        return bool(self.pick.random() < share)

    def one(self, options: tuple[str, ...] | list[str]) -> str:
        return options[int(self.pick.integers(len(options)))]

    def between(self, low: float, high: float) -> float:
        return float(self.pick.uniform(low, high)) if high > low else low

    def free(self, box: Box, among: list[Box], thing: Thing, colour: str, ignored: Group | None = None) -> bool:
        """Whether a box is inside the image and clear of all others; it may cover some of `ignored`.

        A thing must not cover anything of its own colour, because it would not be visible.
        """
        if box[0] < MARGIN - 1 or box[1] < 2 or box[2] > SIZE - MARGIN + 1 or box[3] > SIZE - 2:
            return False
        if any(_overlap(box, other) > MOST_HIDDEN for other in among):
            return False
        for group in self.groups:
            behind = group is ignored or (group.kind.lane == "far" and thing.lane != "air")
            limit = 0.0 if group.colour == colour else 0.3 if behind else MOST_HIDDEN
            for item in group.items:
                over = _covered(item.box, box) if behind else _overlap(box, item.box)
                if over > limit:
                    return False
        return True

    def colour(self, thing: Thing) -> str | None:
        """A colour that differs from the ground and from other groups of the same thing."""
        taken = {group.colour for group in self.groups if group.thing == thing.name}
        clashes = {self.background} if self.background else set(self.world.clashes if self.world else ())
        if thing.name in {"snowman", "cloud"}:
            clashes = clashes & {self.background}
        if self.time == "night":
            clashes |= {"black", "blue"} if thing.lane == "air" else {"black"}
        elif self.time == "sunset" and thing.lane == "air" and thing.name not in {"sun", "cloud"}:
            clashes |= {"orange", "pink", "yellow"}
        options = [colour for colour in thing.colours if colour not in taken | clashes]
        return self.one(options) if options else None

    def allowed(self, thing: Thing) -> bool:
        """Whether counts stay unambiguous with another group of the thing."""
        return not any(
            thing.most == 1 if group.thing == thing.name else thing.kin and group.kind.kin == thing.kin
            for group in self.groups
        )

    def count(self, thing: Thing) -> int:
        return min(thing.most, 1 + int(self.pick.choice(4, p=(0.58, 0.2, 0.12, 0.1))))

    def add(self, thing: Thing, boxes: list[Box], colour: str, size: str = "", depth: str = "") -> None:
        flip = self.rng(0.5)
        variant = int(self.pick.integers(1 << 16))
        second = ""
        if thing.name in SECOND:
            second = self.one([name for name in SECOND[thing.name] if name != colour])
        items = tuple(
            Placed(tuple(round(value, 1) for value in box), flip, variant + number)  # pyright: ignore[reportArgumentType]
            for number, box in enumerate(sorted(boxes))
        )
        self.groups.append(Group(thing=thing.name, colour=colour, second=second, size=size, depth=depth, items=items))

    def span(self, thing: Thing) -> tuple[float, float]:
        """Highest and lowest foot of a thing in this world."""
        assert self.world is not None
        if thing.lane == "air":
            return thing.height + 8, self.world.horizon - 18
        return self.world.lanes[thing.lane]

    def place(self, thing: Thing, colour: str, count: int, scale: float, span: tuple[float, float]) -> list[Box] | None:
        """Boxes for `count` things: in a row or scattered; None where there is no room."""
        width, height = thing.width * scale, thing.height * scale
        room = SIZE - 2 * MARGIN
        if count * (width + 8) > room:
            width, height = width * room / (count * (width + 8)), height * room / (count * (width + 8))
        scattered = thing.lane in {"air", "front", "water"} and self.rng(0.5)
        for _ in range(16):
            boxes: list[Box] = []
            gap = self.between(5, 16)
            total = count * width + (count - 1) * gap
            if total > room:
                gap, total = 8.0, count * (width + 8)
            left = self.between(MARGIN, max(MARGIN, SIZE - MARGIN - total))
            foot = self.between(*span)
            for number in range(count):
                if scattered:
                    left, foot = self.between(MARGIN, SIZE - MARGIN - width), self.between(*span)
                    start = left
                else:
                    start = left + number * (width + gap)
                lift = self.between(-2, 2) if count > 1 else 0.0
                boxes.append((start, foot + lift - height, start + width, foot + lift))
            if all(self.free(box, boxes[:number], thing, colour) for number, box in enumerate(boxes)):
                return boxes
        return None

    def near_anchor(self, thing: Thing, colour: str, scale: float) -> list[Box] | None:
        """A box in front of, or in the air above, a single thing that is already in the scene."""
        width, height = thing.width * scale, thing.height * scale
        for group in self.groups:
            if len(group.items) != 1 or group.depth or group.kind.lane in {"far", "air"}:
                continue
            anchor = group.items[0].box
            middle = self.between(anchor[0] * 0.8 + anchor[2] * 0.2, anchor[0] * 0.2 + anchor[2] * 0.8)
            if thing.lane == "air":
                foot = anchor[1] - self.between(4, 24)
                ignored = None
            elif thing.lane in _FRONTS and group.thing in _BACKS and height < 0.85 * (anchor[3] - anchor[1]):
                low, high = self.span(thing)
                foot = self.between(max(low, anchor[3] + 7), max(anchor[3] + 7, min(high, anchor[3] + 30)))
                ignored = group
            else:
                continue
            box = (middle - width / 2, foot - height, middle + width / 2, foot)
            if self.free(box, [], thing, colour, ignored):
                return [box]
        return None

    def populate(self, thing: Thing) -> None:
        """Add one group of a thing, unless there is no room or no colour for it."""
        colour = self.colour(thing)
        if colour is None or not self.allowed(thing):
            return
        count = self.count(thing)
        size, depth = "", ""
        if thing.sized and count <= 2 and self.rng(0.3):
            size = self.one(["small", "large"])
        if size == "large" and count * (thing.width * SCALE[size] + 8) > SIZE:
            size = ""  # they would be reduced to fit
        scale = SCALE[size] * self.between(0.9, 1.1) * {1: 1.0, 2: 0.92}.get(count, 0.76)
        span = self.span(thing)
        assert self.world is not None
        distant = self.world.distance and thing.lane in {"back", "water"} and thing.name not in {"fence", "fish"}
        if not size and distant and self.rng(0.16):
            depth, scale = "far", scale * 0.42
            span = self.world.horizon + 6, self.world.horizon + 11
        elif not size and thing.lane == "front" and thing.name in {"person", "dog", "cat", "flower"} and self.rng(0.1):
            depth, scale, span = "near", scale * 1.7, (248.0, 252.0)
        boxes = self.near_anchor(thing, colour, scale) if count == 1 and not depth and self.rng(0.4) else None
        boxes = boxes or self.place(thing, colour, count, scale, span)
        if boxes:
            self.add(thing, boxes, colour, size, depth)


def _overlap(first: Box, second: Box) -> float:
    """Common area divided by the smaller area."""
    return max(_covered(first, second), _covered(second, first))


def _covered(below: Box, above: Box) -> float:
    """The share of `below` that `above` hides."""
    width = min(below[2], above[2]) - max(below[0], above[0])
    height = min(below[3], above[3]) - max(below[1], above[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((below[2] - below[0]) * (below[3] - below[1]))


def _in_world(pick: np.random.Generator) -> tuple[str, str, _Builder]:
    name = list(WORLDS)[int(pick.integers(len(WORLDS)))]
    world = WORLDS[name]
    builder = _Builder(pick=pick, world=world, time=world.times[int(pick.integers(len(world.times)))])
    wanted = 1 + int(pick.choice(3, p=(0.25, 0.45, 0.3)))
    for _ in range(wanted * 3):
        if len(builder.groups) < wanted:
            builder.populate(THINGS[builder.one(world.things)])
    while not builder.groups:
        builder.populate(THINGS[builder.one(world.things)])
    if world.horizon:
        above = ["bird", "balloon"]
        above += {"day": ["sun", "sun", "sun", "cloud", "cloud"], "sunset": ["sun", "cloud"]}.get(builder.time, [])
        above += ["moon", "moon", "star", "star"] if builder.time == "night" else []
        for _ in range(int(pick.choice(3, p=(0.35, 0.4, 0.25)))):
            builder.populate(THINGS[builder.one(above)])
    return name, "", builder


def _on_plain(pick: np.random.Generator) -> tuple[str, str, _Builder]:
    builder = _Builder(pick=pick, world=None, time="day", background="")
    builder.background = builder.one([*["white"] * 8, *COLOURS])
    options = [THINGS[name] for name in _PLAIN if set(THINGS[name].colours) - {builder.background}]
    first = options[int(pick.integers(len(options)))]
    if pick.random() < 0.62:  # a portrait of one thing
        _put(builder, first, 1, builder.between(0.42, 0.88), (70, 250))
    elif pick.random() < 0.5:
        _put(builder, first, min(max(2, first.most), 2 + int(pick.integers(3))), builder.between(0.3, 0.46), (90, 246))
    else:
        second = first if pick.random() < 0.35 else options[int(pick.integers(len(options)))]
        sizes = builder.one(["", "large small", "small large"]) if first is second and first.sized else ""
        for thing, size in zip((first, second), sizes.split() or ("", ""), strict=True):
            _put(builder, thing, 1, {"small": 0.22, "": 0.4, "large": 0.5}[size], (120, 236), size)
    return "", builder.background, builder


def _put(builder: _Builder, thing: Thing, count: int, share: float, span: tuple[float, float], size: str = "") -> None:
    """Add a group to a plain background; `share` is the longer side of each thing as a share of the image's side."""
    colour = builder.colour(thing)
    if colour is None or not builder.allowed(thing):
        return
    boxes = builder.place(thing, colour, count, share * SIZE / max(thing.width, thing.height), span)
    if boxes:
        builder.add(thing, boxes, colour, size)


def compose(seed: int) -> Scene:
    """The scene of a seed, the same on every machine."""
    for attempt in range(100):
        pick = np.random.default_rng(derive_seed("scenes", "compose", seed, attempt))
        world, background, builder = _on_plain(pick) if pick.random() < 0.4 else _in_world(pick)
        if builder.groups:
            return Scene(
                seed=seed,
                world=world,
                background=background,
                time=builder.time,
                detail=int(pick.integers(1 << 31)),
                groups=tuple(builder.groups),
            )
    raise AssertionError(f"no scene could be composed: seed {seed}")
