"""Text and image to a receipt: a verdict for every sentence (met, not met, cannot tell) with the pixels that prove it.

In: a `Spec` and a `Reading`. Out: `Receipt`.

A sentence names rooms by number, and numbers follow the image's raster order. If the image has the number of rooms of a
type that the text requests, the numbers of both agree. If it has more or fewer, the assignment is unknown: then a
sentence that is true for every choice of rooms is met, one that is true for none is not met, and any other gets the
verdict "cannot tell". If there are too few rooms, the room that a sentence means may be a missing one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from loraloom.protocols.domain import Box, Receipt, Verdict

from ..plan import MOST_ROOMS, Opening, Plan, Position, Room, direction
from ..text.spec import Spec, connection_sentence, count_item, position_sentence
from ..vision.reading import Reading
from ..vocabulary import DIRECTIONS, RoomId

MOST_OFF_PALETTE = 0.6
"""An image with a larger share of pixels near no colour of the palette is not read at all."""


def verify(spec: Spec, reading: Reading) -> Receipt:
    """Compare an image with its text, sentence by sentence, in the order of the text."""
    plan = reading.plan
    fronts = sum(opening.kind == "front door" for opening in plan.openings)
    disorder = min(1.0, reading.off_palette + (0.25 if fronts != 1 else 0.0))
    if why := unreadable(reading):
        blank = tuple(
            Verdict(sentence=sentence, section=section, met=None, reason=why) for sentence, section in _sentences(spec)
        )
        return Receipt(verdicts=blank, extras=(), disorder=disorder)
    return Receipt(verdicts=tuple(_verdicts(spec, plan)), extras=tuple(_extras(spec, plan)), disorder=disorder)


def unreadable(reading: Reading) -> str:
    """Why an image cannot be verified; empty when it can."""
    if reading.off_palette > MOST_OFF_PALETTE:
        return f"{reading.off_palette:.0%} of the image has no colour of a plan"
    if not reading.plan.rooms:
        return "the image has no room that can be read"
    if len(reading.plan.rooms) > MOST_ROOMS:
        return f"the image falls into {len(reading.plan.rooms)} pieces"
    return ""


def _sentences(spec: Spec) -> Iterator[tuple[str, str]]:
    """Each sentence with its section, in the order of the text."""
    yield from ((count_item(*item), "count") for item in spec.counts or ())
    yield from ((connection_sentence(pair), "connection") for pair in spec.connections or ())
    yield from ((position_sentence(position), "position") for position in spec.positions or ())


def _verdicts(spec: Spec, plan: Plan) -> Iterator[Verdict]:
    for kind, asked in spec.counts or ():
        found = [room for room in plan.rooms if room.id.kind == kind]
        reason = f"{len(found)} found"
        yield Verdict(
            sentence=count_item(kind, asked),
            section="count",
            met=len(found) == asked,
            reason=reason,
            regions=tuple(room.box for room in found),
        )
    for pair in spec.connections or ():
        met, rooms, reason = _verifier(pair, spec, plan, partial(_connected, plan))
        doors = tuple(opening.box for opening in doors_between(plan, *rooms)) if met and len(rooms) == 2 else ()
        yield Verdict(
            sentence=connection_sentence(pair),
            section="connection",
            met=met,
            reason=reason,
            regions=doors + _boxes(plan, rooms),
        )
    for position in spec.positions or ():
        met, rooms, reason = _verifier(
            (position.subject, position.object), spec, plan, partial(_lies, plan, position.direction)
        )
        yield Verdict(
            sentence=position_sentence(position),
            section="position",
            met=met,
            reason=reason,
            regions=_boxes(plan, rooms),
        )


Test = Callable[[RoomId, RoomId], tuple[bool, str]]


def _verifier(
    pair: tuple[RoomId, RoomId], spec: Spec, plan: Plan, test: Test
) -> tuple[bool | None, tuple[RoomId, ...], str]:
    """Verdict of a relation between two rooms, the rooms in the image that it concerns, and the reason."""
    choices = [_candidates(name, spec, plan) for name in pair]
    for name, found in zip(pair, choices, strict=True):
        if not found:
            there = tuple(room for each in choices for room in each[:1])
            return False, there, f"there is no {name if plan.counts[name.kind] else name.kind}"
    outcomes = [(first, second, *test(first, second)) for first, second in product(*choices) if first != second]
    if not outcomes:
        return False, tuple(choices[0]), f"there is only one {pair[0].kind}"
    first, second, met, reason = outcomes[0]
    lacking = next((name for name in pair if plan.counts[name.kind] < (spec.count(name.kind) or 0)), None)
    if all(outcome[2] is met for outcome in outcomes) and not (met and lacking):
        return met, (first, second), reason
    unsure = lacking or next(name for name, found in zip(pair, choices, strict=True) if len(found) > 1)
    asked, seen = spec.count(unsure.kind), plan.counts[unsure.kind]
    return None, (first, second), f"which {unsure.kind} is meant? {asked} asked for, {seen} found"


def _candidates(name: RoomId, spec: Spec, plan: Plan) -> list[RoomId]:
    """Rooms of the image that a room of the text may refer to."""
    same = [room.id for room in plan.rooms if room.id.kind == name.kind]
    asked = spec.count(name.kind)
    if asked is None or asked == len(same):
        return [name] if name in same else []
    return same


def _connected(plan: Plan, first: RoomId, second: RoomId) -> tuple[bool, str]:
    if doors_between(plan, first, second):
        return True, f"a door joins {first} and {second}"
    return False, f"no door between {first} and {second}"


def doors_between(plan: Plan, first: RoomId, second: RoomId) -> list[Opening]:
    """Interior doors that both rooms touch."""
    return [each for each in plan.openings if each.kind == "interior door" and {first, second} <= set(each.rooms)]


def _lies(plan: Plan, asked: str, subject: RoomId, origin: RoomId) -> tuple[bool, str]:
    first, second = plan.room(subject), plan.room(origin)
    assert first and second
    word = direction(first.centroid, second.centroid)
    return word == asked, f"{subject} is {word} {origin}"


def _boxes(plan: Plan, rooms: tuple[RoomId, ...]) -> tuple[Box, ...]:
    found: list[Room | None] = [plan.room(name) for name in rooms]
    return tuple(room.box for room in found if room)


def _extras(spec: Spec, plan: Plan) -> Iterator[str]:
    """Rooms and connections of the image that the text does not request, for the sections that the text has."""
    if spec.counts is not None:
        for kind, count in plan.counts.items():
            if count and spec.count(kind) is None:
                yield f"{count} {kind} that the text does not count"
    for first, second in not_asked_for(spec, plan):
        yield f"{first} and {second} are connected, which is not asked for"


def not_asked_for(spec: Spec, plan: Plan) -> list[tuple[RoomId, RoomId]]:
    """Connections of the image that the text does not request, though it states connections of both rooms.

    A text that names one door of a house does not mean that there are no others.
    """
    asked = {frozenset(pair) for pair in spec.connections or ()}
    named = {room for pair in asked for room in pair}
    return [pair for pair in plan.connections if named.issuperset(pair) and frozenset(pair) not in asked]


def octants_between(first: str, second: str) -> int:
    """Number of steps of 45 degrees between two directions, 0 .. 4."""
    apart = abs(DIRECTIONS.index(first) - DIRECTIONS.index(second))
    return min(apart, 8 - apart)


def direction_in(plan: Plan, position: Position) -> str | None:
    """The direction between a position's rooms in the image; None when one of them is missing."""
    subject, origin = plan.room(position.subject), plan.room(position.object)
    return direction(subject.centroid, origin.centroid) if subject and origin else None
