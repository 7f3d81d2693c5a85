"""Fill in what a text leaves open, for a model that finds its way by positions.

In: a spec in which some rooms have no place. Out: the same with positions for them, taken from a drawn plan that has these
rooms and comes nearest to all that the text does say; kinds of rooms that it does not count are counted as plans have them.

Where the text places every room a model of plans draws nearly what it says; where it places none, rooms come out in any
number (decision 0024). Plans with thick walls have no positions by the annotator's rule, and people write few.
"""

from dataclasses import replace

from ..plan import Plan, Position
from ..synthesis import plans_of
from ..vocabulary import ROOM_TYPES, RoomId
from .spec import Spec, upright

MOST_ROOMS = 12
"""With more a plan is seldom found."""
TRIES = 120
"""At drawing a plan, 10 to 20 ms each; most texts find one that fits among the first twenty."""
USUAL = {"living room": 1, "master room": 1, "kitchen": 1, "bathroom": 1}
"""Rooms of kinds that a text does not count; none of the others."""
NEEDED = ("living room", "master room")
"""One of each of these is in every plan that is drawn here."""


def unplaced(spec: Spec) -> set[RoomId]:
    """Rooms that no position speaks of."""
    placed = {room for each in spec.positions or () for room in (each.subject, each.object)}
    return set(spec.rooms()) - placed


def filled(given: Spec, seed: int) -> Spec:
    """The spec with places for its unplaced rooms.

    It stays as it is where all have a place, where it counts nothing, and where no plan with its rooms is drawn here.
    """
    if not given.counts or not unplaced(given):
        return given
    counts = {kind: USUAL.get(kind, 0) for kind in ROOM_TYPES} | dict(given.counts)
    if any(counts[kind] != 1 for kind in NEEDED) or sum(counts.values()) > MOST_ROOMS:
        return given
    spec = replace(given, counts=tuple(counts.items()))
    kinds = [kind for kind, count in counts.items() if kind != "living room" for _ in range(count)]
    best: Plan | None = None
    least = 0
    for plan in plans_of(kinds, seed, TRIES):
        wrong = misfit(spec, plan)
        if best is None or wrong < least:
            best, least = plan, wrong
        if not wrong:
            break
    return given if best is None else with_places(spec, best)


def misfit(spec: Spec, plan: Plan) -> int:
    """How many of the spec's connections and positions the plan does not have, and how many connections too many."""
    asked = {frozenset(pair) for pair in spec.connections or ()}
    have = {frozenset(pair) for pair in plan.connections}
    missing = len({upright(each) for each in spec.positions or ()} - set(plan.positions))
    return missing + len(asked - have) + (len(have - asked) if spec.connections else 0)


def with_places(spec: Spec, plan: Plan) -> Spec:
    """The spec with the plan's positions of rooms that have none; with its connections too where the spec has none."""
    rooms = unplaced(spec)
    new = [each for each in plan.positions if each.subject in rooms or each.object in rooms]

    def rank(position: Position) -> tuple[tuple[int, int], tuple[int, int]]:
        straight = upright(position)
        return straight.object.rank, straight.subject.rank

    positions = tuple(sorted((*(spec.positions or ()), *new), key=rank))
    return replace(spec, positions=positions, connections=spec.connections or plan.connections)
