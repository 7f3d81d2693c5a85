"""Doors and windows of a layout, in pixels.

In: a `Layout`, the pixel of each grid line, a random generator. Out: boxes with the rooms that each must join. Windows
follow the rule of the real images (zzilch/RPLAN-Toolbox, `rplan/decorate.py: add_window`); doors are 13 px, which is
0.91 m, on a wall that the two rooms share. They keep away from corners and from each other (decision 0025), or, as in
real plans, lie at the very ends of walls, some of them around a corner.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..vision.pixels import Box
from ..vocabulary import DOOR, FRONT_DOOR, WINDOW
from .grid import HUB, OUTSIDE, Run
from .site import Layout

DOOR_PX = (12, 13, 13, 13, 14, 15)
FRONT_DOOR_PX = (11, 13, 15, 15, 16, 17)
MIN_DOOR_PX = 11
CLEAR_PX = 2
"""Smallest distance of two openings, pixels: nearer ones would be read as one."""

ROOMY_PX = 8
"""Distance of doors clear of corners from other openings where there is space, pixels."""

CLEAR_END_PX = 3
"""Distance of doors clear of corners from the ends of their wall, pixels."""

CORNER_SHARE = 0.27
"""With corner doors: share of the doors at the end of their wall that reach into the corner and so join a third
room."""

ELBOW_SHARE = 0.6
"""Share of those that continue around the corner and serve the third room too."""


@dataclass(frozen=True, slots=True)
class Hole:
    """An opening.

    Attributes:
        pixel_class: `DOOR`, `FRONT_DOOR` or `WINDOW`.
        boxes: Boxes in pixels; two boxes that overlap where a door continues around a corner.
        owners: Rooms that it must touch, as owners of the layout, sorted.
    """

    pixel_class: int
    boxes: tuple[Box, ...]
    owners: tuple[int, ...]

    @property
    def box(self) -> Box:
        """Box around all boxes."""
        lefts, tops, rights, bottoms = zip(*self.boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)


@dataclass(frozen=True, slots=True)
class Lines:
    """Positions of the grid lines in the image.

    Attributes:
        xs: (w + 1,) pixel of each vertical line.
        ys: (h + 1,) pixel of each horizontal line.
        wall_px: Thickness of walls, pixels.
    """

    xs: NDArray[np.int32]
    ys: NDArray[np.int32]
    wall_px: int

    @property
    def before(self) -> int:
        """Number of pixels of a wall that lie before its line."""
        return (self.wall_px + 1) // 2

    def span(self, run: Run) -> tuple[int, int]:
        """First and past-last pixel of a run that no crossing wall can cover."""
        along = self.ys if run.vertical else self.xs
        return int(along[run.start]) - self.before + self.wall_px, int(along[run.stop]) - self.before

    def box(self, run: Run, start: int, stop: int) -> Box:
        """The wall's pixels from `start` to `stop` along the run."""
        low = int((self.xs if run.vertical else self.ys)[run.line]) - self.before
        high = low + self.wall_px
        return (low, start, high, stop) if run.vertical else (start, low, stop, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """Inputs of door placement."""

    layout: Layout
    lines: Lines
    walls: tuple[Run, ...]
    corner_doors: bool

    @property
    def clearances(self) -> tuple[int, ...]:
        """Distances from other openings to try, the best first."""
        return (CLEAR_PX,) if self.corner_doors else (ROOMY_PX, CLEAR_PX)

    def ends(self, start: int, stop: int, size: int) -> tuple[int, int]:
        """Starts of a door of that size at the first and at the last end of a wall's span."""
        inset = 0 if self.corner_doors else min(CLEAR_END_PX, (stop - start - size) // 2)
        return start + inset, stop - size - inset

    def between(self, first: int, second: int) -> list[Run]:
        """Runs between two owners."""
        pair = {first, second}
        return [run for run in self.walls if set(run.owners) == pair]


def _meet(first: Box, second: Box, gap: int = 0) -> bool:
    """Whether fewer than `gap` pixels, or with 0 none, lie between two boxes along both axes."""
    return (
        first[0] - gap < second[2]
        and second[0] < first[2] + gap
        and first[1] - gap < second[3]
        and second[1] < first[3] + gap
    )


def _apart(boxes: Iterable[Box], others: Iterable[Hole], clear_px: int = CLEAR_PX) -> bool:
    """Whether all boxes keep their distance from all other openings."""
    taken = [box for other in others for box in other.boxes]
    return not any(_meet(box, other, clear_px + 1) for box in boxes for other in taken)


def _corner(layout: Layout, run: Run, at_start: bool) -> tuple[int, ...]:
    """Owners of the four cells around an end of a run; empty when the outside is among them."""
    along = run.start if at_start else run.stop
    y, x = (along, run.line) if run.vertical else (run.line, along)
    around = {int(owner) for owner in layout.cells[y - 1 : y + 1, x - 1 : x + 1].flat}
    return () if OUTSIDE in around else tuple(sorted(around))


def _elbow(rng: np.random.Generator, task: _Task, run: Run, at_start: bool, third: int) -> Box | None:
    """The arm of a corner door on the third room's wall to the hub, if that wall ends in the same corner."""
    along = run.start if at_start else run.stop
    for other in task.between(HUB, third):
        if other.vertical == run.vertical or other.line != along or run.line not in (other.start, other.stop):
            continue
        start, stop = task.lines.span(other)
        size = DOOR_PX[int(rng.integers(len(DOOR_PX)))]
        if stop - start < size:
            continue
        wall = task.lines.wall_px
        low, high = (start - wall, start + size) if run.line == other.start else (stop - size, stop + wall)
        return task.lines.box(other, low, high)
    return None


def _corner_door(rng: np.random.Generator, task: _Task, run: Run, span: tuple[int, int], at_start: bool) -> Hole | None:
    """A door that reaches into the corner at an end of its wall, and perhaps around it."""
    around = _corner(task.layout, run, at_start)
    if len(around) < 3:
        return None
    wall = task.lines.wall_px
    box = task.lines.box(run, *((span[0] - wall, span[1]) if at_start else (span[0], span[1] + wall)))
    thirds = [owner for owner in around if owner not in run.owners]
    if HUB in run.owners and len(thirds) == 1 and rng.random() < ELBOW_SHARE:
        arm = _elbow(rng, task, run, at_start, thirds[0])
        if arm is not None:
            return Hole(DOOR, (box, arm), around)
    return Hole(DOOR, (box,), around)


def _door(rng: np.random.Generator, task: _Task, pair: tuple[int, int], holes: list[Hole]) -> Hole | None:
    """A door between two rooms, at an end or in the middle of a wall, away from other openings."""
    options = task.between(*pair)
    for clear_px in task.clearances:
        for index in rng.permutation(len(options)):
            for hole in _doors_on(rng, task, options[int(index)]):
                if _apart(hole.boxes, holes, clear_px):
                    return hole
    return None


def _doors_on(rng: np.random.Generator, task: _Task, run: Run) -> Iterator[Hole]:
    """Doors on a wall, in the order in which they are tried."""
    start, stop = task.lines.span(run)
    size = min(DOOR_PX[int(rng.integers(len(DOOR_PX)))], stop - start)
    if size < MIN_DOOR_PX:
        return
    middle = (start + stop - size) // 2
    first, last = task.ends(start, stop, size)
    ends = [first, last] if rng.random() < 0.5 else [last, first]
    for low in (middle, *ends) if rng.random() < 0.2 else (*ends, middle):
        hole = Hole(DOOR, (task.lines.box(run, low, low + size),), tuple(sorted(run.owners)))
        if task.corner_doors and low != middle and rng.random() < CORNER_SHARE:
            hole = _corner_door(rng, task, run, (low, low + size), low == start) or hole
        yield hole


def _balcony_door(rng: np.random.Generator, task: _Task, pair: tuple[int, int], holes: list[Hole]) -> Hole | None:
    """A wide door: four fifths of the wall between a balcony and its room."""
    for run in sorted(task.between(*pair), key=lambda run: -run.length):
        start, stop = task.lines.span(run)
        size = round(0.8 * (stop - start))
        low = start + round((stop - start - size) * (0.25, 0.5, 0.5, 0.75)[int(rng.integers(4))])
        box = task.lines.box(run, low, low + size)
        if size >= 8 and _apart((box,), holes):
            return Hole(DOOR, (box,), pair)
    return None


def _front_door(rng: np.random.Generator, task: _Task) -> Hole | None:
    """The front door: on a facade of the hub, preferably on a short one, as in real flats."""
    kinds = {task.layout.kind(owner): owner for owner in range(HUB, len(task.layout.rooms) + 2)}
    owner = kinds.get("entrance", HUB)
    options = task.between(OUTSIDE, owner)
    weights = np.array([1.0 / run.length for run in options])
    order = rng.choice(len(options), len(options), replace=False, p=weights / weights.sum()) if options else ()
    for index in order:
        run = options[int(index)]
        start, stop = task.lines.span(run)
        size = min(FRONT_DOOR_PX[int(rng.integers(len(FRONT_DOOR_PX)))], stop - start)
        if size >= MIN_DOOR_PX:
            low = (start, stop - size, (start + stop - size) // 2)[int(rng.choice(3, p=(0.35, 0.35, 0.3)))]
            return Hole(FRONT_DOOR, (task.lines.box(run, low, low + size),), (owner,))
    return None


def _free_spans(lines: Lines, run: Run, front: Hole) -> Iterator[tuple[int, int]]:
    """The run's span, or its parts on both sides of the front door on it."""
    start, stop = lines.span(run)
    box = front.box
    if _meet(lines.box(run, start, stop), box):
        low, high = (box[1], box[3]) if run.vertical else (box[0], box[2])
        yield from ((start, low), (high, stop))
    else:
        yield start, stop


def _windows(task: _Task, front: Hole) -> Iterator[Hole]:
    """Windows of all rooms by the toolbox's rule."""
    by_owner: dict[int, list[tuple[Run, int, int]]] = {}
    for run in task.walls:
        if OUTSIDE in run.owners:
            spans = [(run, *span) for span in _free_spans(task.lines, run, front)]
            by_owner.setdefault(max(run.owners), []).extend(spans)
    for owner, spans in sorted(by_owner.items()):
        kind = task.layout.kind(owner)
        sized = sorted(((run, start, stop, stop - start) for run, start, stop in spans), key=lambda span: span[3])
        if kind == "bathroom":
            chosen = [(*span, 10) for span in sized if span[3] > 10][:1]
        elif kind == "balcony":
            chosen = [(*span, round(0.8 * span[3])) for span in sized if span[3] > 10]
        elif kind == "living room":
            chosen = [(*span, 24 if span[3] > 36 else 18) for span in sized if span[3] > 27]
        else:
            chosen = [(*span, 18) for span in sized if span[3] > 27][-1:]
        for run, start, stop, _, size in chosen:
            low = (start + stop - size) // 2
            yield Hole(WINDOW, (task.lines.box(run, low, low + size),), (owner,))


def place_openings(
    rng: np.random.Generator, layout: Layout, lines: Lines, walls: tuple[Run, ...], *, corner_doors: bool = False
) -> tuple[Hole, ...] | None:
    """All openings, or None when a door found no wall.

    Args:
        rng: Random generator that decides the places.
        layout: The rooms.
        lines: Pixels of the grid lines.
        walls: The walls, as from `layout.walls()`.
        corner_doors: Whether doors also lie at the very ends of walls and around corners.
    """
    task = _Task(layout=layout, lines=lines, walls=walls, corner_doors=corner_doors)
    front = _front_door(rng, task)
    if front is None:
        return None
    holes = [front]
    for pair in (*layout.doors, *layout.more_doors):
        if any(len(hole.boxes) > 1 and set(pair) <= set(hole.owners) for hole in holes):
            continue  # an elbow door serves it
        wide = layout.kind(pair[1]) == "balcony"
        hole = _balcony_door(rng, task, pair, holes) if wide else _door(rng, task, pair, holes)
        if hole is not None:
            holes.append(hole)
        elif pair in layout.doors:
            return None
    holes += [hole for hole in _windows(task, front) if _apart(hole.boxes, holes)]
    return tuple(holes)
