"""Expand a text by positions that it leaves open, for a model that depends on positions.

In: a spec in which some rooms have no position. Out: the same with positions for them, taken from a synthesized plan
that has these rooms and comes nearest to everything that the text says; kinds of rooms that it does not count get their
usual counts.

When the text gives every room a position, a model of plans meets nearly all of it; when it gives none, the number of
rooms is arbitrary (decision 0024). Plans with thick walls have no positions by the annotator's rule, and people write
few.
"""

from dataclasses import replace

from ..plan import Plan, Position
from ..synthesis import plans_of
from ..vocabulary import ROOM_TYPES, RoomId
from .spec import Spec, upright

MOST_ROOMS = 12
"""Largest number of rooms: with more rooms a plan is seldom found."""
TRIES = 120
"""Number of plans to synthesise, 10 to 20 ms each; most texts find one that fits among the first twenty."""
USUAL = {"living room": 1, "master room": 1, "kitchen": 1, "bathroom": 1}
"""Counts of kinds of rooms that a text does not count; other kinds have none."""
NEEDED = ("living room", "master room")
"""Every synthesized plan has one of each of these."""


def unplaced(spec: Spec) -> set[RoomId]:
    """Rooms without a position."""
    placed = {room for each in spec.positions or () for room in (each.subject, each.object)}
    return set(spec.rooms()) - placed


def filled(given: Spec, seed: int) -> Spec:
    """The spec with positions for rooms that have none.

    The spec is unchanged when all rooms have one, when it has no counts, or when no plan with its rooms is synthesized.
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
    """Number of the spec's connections and positions that the plan lacks, plus the number of its extra connections."""
    asked = {frozenset(pair) for pair in spec.connections or ()}
    have = {frozenset(pair) for pair in plan.connections}
    missing = len({upright(each) for each in spec.positions or ()} - set(plan.positions))
    return missing + len(asked - have) + (len(have - asked) if spec.connections else 0)


def with_places(spec: Spec, plan: Plan) -> Spec:
    """The spec with the plan's positions of rooms that have none; also with its connections where the spec has none."""
    rooms = unplaced(spec)
    new = [each for each in plan.positions if each.subject in rooms or each.object in rooms]

    def rank(position: Position) -> tuple[tuple[int, int], tuple[int, int]]:
        straight = upright(position)
        return straight.object.rank, straight.subject.rank

    positions = tuple(sorted((*(spec.positions or ()), *new), key=rank))
    return replace(spec, positions=positions, connections=spec.connections or plan.connections)
