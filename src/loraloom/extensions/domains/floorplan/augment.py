"""Augment texts and pairs: leave sentences out, shuffle them, reverse them; mirror and turn plans together with their
words.

In: specs, maps of pixel classes, a random generator. Out: specs and maps in which every sentence that was true is still
true, ids included: the rooms of a turned plan are numbered anew by the raster order of the turned image.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loraloom.utils.errors import UserError

from .plan import Labels, Plan, Position, annotate, direction
from .text.spec import Spec, parse_spec, print_spec, upright
from .vision.pixels import components
from .vocabulary import CLASS_NAMES, OFFSETS, ROOM_CLASSES, RoomId, inverse, turned
from .vocabulary import mirrored as mirrored_word

T = TypeVar("T")

# ------------------------------------------------------------------------------------------------------ sentences


@dataclass(frozen=True, slots=True)
class Dropping:
    """How much `drop` leaves out. Every field is a probability in 0 .. 1; the default 0 leaves nothing out.

    Attributes:
        counts: Probability that the counts are left out, all of them: some of them would be a false total.
        section: Probability that a section is left out, independently for connections and positions.
        few: Probability that a section that stays keeps at most two sentences.
        sentence: Probability that a sentence is left out of a section to which neither of the above happens.
    """

    counts: float = 0.0
    section: float = 0.0
    few: float = 0.0
    sentence: float = 0.0


DROPPINGS: Mapping[str, Dropping] = MappingProxyType(
    {"light": Dropping(counts=0.05, section=0.1, sentence=0.1), "heavy": Dropping(counts=0.4, few=0.55)}
)
"""`heavy` has the rates of JongHwa-Shim/text-to-image-generation, which keeps at most two room items in 40 % of its
samples and at most two sentences of a section in 55 %; the counts are left out as a whole here."""

_FEW = 2


def drop(spec: Spec, rng: np.random.Generator, how: Dropping = DROPPINGS["light"]) -> Spec:
    """The spec with some sentences or whole sections left out; the others keep their ids and their order.

    A section that loses its last sentence is left out with its header: an empty section would say that there are none.
    At least one section remains: when all would be left out, the counts stay, or else the first section of the spec.
    """
    # Every random number is taken whatever the others decide, so that one section does not change another's.
    drop_counts = rng.random() < how.counts
    connections = _thinned(spec.connections, rng, how)
    positions = _thinned(spec.positions, rng, how)
    counts = None if drop_counts else spec.counts
    if counts is None and connections is None and positions is None:
        if spec.counts is None:
            return spec
        counts = spec.counts
    return replace(spec, counts=counts, connections=connections, positions=positions)


def _thinned(sentences: tuple[T, ...] | None, rng: np.random.Generator, how: Dropping) -> tuple[T, ...] | None:
    section, few, number = rng.random(), rng.random(), int(rng.integers(_FEW + 1))
    draws, order = rng.random(len(sentences or ())), rng.permutation(len(sentences or ()))
    if sentences is None or section < how.section:
        return None
    if not sentences:
        return sentences
    chosen = set(order[:number].tolist()) if few < how.few else {i for i, x in enumerate(draws) if x >= how.sentence}
    return tuple(sentence for index, sentence in enumerate(sentences) if index in chosen) or None


def shuffle(spec: Spec, rng: np.random.Generator) -> Spec:
    """The sentences of each section in random order; the counts line keeps its own."""
    return replace(spec, connections=_permuted(spec.connections, rng), positions=_permuted(spec.positions, rng))


def _permuted(sentences: tuple[T, ...] | None, rng: np.random.Generator) -> tuple[T, ...] | None:
    return None if sentences is None else tuple(sentences[index] for index in map(int, rng.permutation(len(sentences))))


def swap(spec: Spec, rng: np.random.Generator, own_rng: float = 0.5) -> Spec:
    """Some sentences reversed: "B and A", and with the inverse word "B is right-of A"."""
    connections, positions = spec.connections, spec.positions
    if connections is not None:
        connections = tuple(pair[::-1] if rng.random() < own_rng else pair for pair in connections)
    if positions is not None:
        positions = tuple(
            Position(each.object, inverse(each.direction), each.subject) if rng.random() < own_rng else each
            for each in positions
        )
    return replace(spec, connections=connections, positions=positions)


# ------------------------------------------------------------------------------------------------------ images


@dataclass(frozen=True, slots=True)
class Symmetry:
    """One of the eight symmetries of a square image: first mirrored or not, then turned.

    Attributes:
        mirror: Whether left and right are exchanged.
        quarter_turns: Number of clockwise quarter turns, 0 .. 3.
    """

    mirror: bool = False
    quarter_turns: int = 0

    def labels(self, labels: Labels) -> Labels:
        """The moved map."""
        return turn(mirror_x(labels) if self.mirror else labels, self.quarter_turns)

    def word(self, word: str) -> str:
        """The direction in the moved image."""
        word = mirrored_word(word) if self.mirror else word
        for _ in range(self.quarter_turns % 4):
            word = turned(word)
        return word


SYMMETRIES = tuple(Symmetry(mirror, quarter_turns) for mirror in (False, True) for quarter_turns in range(4))
"""All eight, the identity first."""


def mirror_x(labels: Labels) -> Labels:
    """Left and right exchanged."""
    return np.ascontiguousarray(labels[:, ::-1])


def mirror_y(labels: Labels) -> Labels:
    """Top and bottom exchanged."""
    return np.ascontiguousarray(labels[::-1])


def turn(labels: Labels, quarter_turns: int) -> Labels:
    """Turned clockwise by a number of quarter turns."""
    return np.ascontiguousarray(np.rot90(labels, -quarter_turns))


def transformed(spec: Spec, labels: Labels, transform: Symmetry) -> tuple[Spec, Labels]:
    """A pair of text and image, both moved by a symmetry.

    Rooms get the numbers that they have in the moved image. Sentences are in the order and form of the rule, so that
    the full text of a plan becomes, word for word, the full text of the moved plan; shuffle and swap afterwards.

    Args:
        spec: The text of the image; may lack sentences or sections, must not name rooms that the image lacks.
        labels: (h, w) pixel classes.
        transform: One of `SYMMETRIES`.

    Raises:
        UserError: The text names a room that the image lacks.
    """
    moved = transform.labels(labels)
    before, after = annotate(labels), annotate(moved)
    new = _numbers(labels)[SYMMETRIES.index(transform)]
    for room in {*(room for pair in spec.connections or () for room in pair), *_placed(spec)}:
        if room not in new:
            known = ", ".join(map(str, new))
            raise UserError("the text names a room that its image lacks", got=str(room), expected=known or "no room")
    connections, positions = spec.connections, spec.positions
    if connections is not None:
        connections = tuple((new[a], new[b]) for a, b in connections)
    if positions is not None:
        positions = tuple(_turned(each, new, before, after, transform) for each in positions)
    return _ruled(replace(spec, connections=connections, positions=positions)), moved


def _placed(spec: Spec) -> set[RoomId]:
    return {room for position in spec.positions or () for room in (position.subject, position.object)}


def _turned(
    position: Position, new: Mapping[RoomId, RoomId], before: Plan, after: Plan, transform: Symmetry
) -> Position:
    """One sentence moved, higher room first."""
    moved = upright(Position(new[position.subject], transform.word(position.direction), new[position.object]))
    if _seen(position, before) != position.direction:
        return moved
    # The word is read from the moved image, so that it is true even for two rooms with one centre, whose word is
    # `right-of` in every image.
    return replace(moved, direction=_seen(moved, after))


def _seen(position: Position, plan: Plan) -> str:
    """The word that the plan has for the two rooms."""
    first, second = plan.room(position.subject), plan.room(position.object)
    assert first and second, position
    return direction(first.centroid, second.centroid)


def turned_texts(text: str, labels: Labels) -> list[str | None]:
    """The text of a plan in all `SYMMETRIES` of its image; None where the text names a room that the image lacks.

    The same result as `transformed` for each symmetry, but much faster, for training on turned plans: numbers are read
    from the pixels, words are turned. A text whose sentences follow the order of the rule keeps to that order; another
    text keeps its own. The one wrong case is two rooms with one centre, whose word no turn changes.

    Args:
        text: The full text or a part of it.
        labels: (h, w) pixel classes of its image.
    """
    spec = parse_spec(text)
    ruled = _ruled(spec) == spec
    told: list[str | None] = []
    for transform, new in zip(SYMMETRIES, _numbers(labels), strict=True):
        try:
            moved = _renamed(spec, new, transform)
        except KeyError:
            told.append(None)
            continue
        told.append(print_spec(_ruled(moved) if ruled else moved))
    return told


def _renamed(spec: Spec, new: Mapping[RoomId, RoomId], transform: Symmetry) -> Spec:
    connections, positions = spec.connections, spec.positions
    if connections is not None:
        connections = tuple((new[a], new[b]) for a, b in connections)
    if positions is not None:
        positions = tuple(
            Position(new[each.subject], transform.word(each.direction), new[each.object]) for each in positions
        )
    return replace(spec, connections=connections, positions=positions)


def _ruled(spec: Spec) -> Spec:
    """The spec's sentences in the order and form of the rule."""
    connections, positions = spec.connections, spec.positions
    if connections is not None:
        pairs = [(a, b) if a.rank <= b.rank else (b, a) for a, b in connections]
        connections = tuple(sorted(pairs, key=lambda pair: (pair[0].rank, pair[1].rank)))
    if positions is not None:
        upright_ = map(upright, positions)
        positions = tuple(sorted(upright_, key=lambda each: (each.object.rank, each.subject.rank)))
    return replace(spec, connections=connections, positions=positions)


@cache
def _orders(height: int, width: int) -> list[NDArray[np.int32]]:
    """For each of `SYMMETRIES`, (h, w): the place of each pixel in raster order after the image is moved."""
    places = np.arange(height * width, dtype=np.int32)
    orders: list[NDArray[np.int32]] = []
    for transform in SYMMETRIES:
        moved = transform.labels(places.reshape(height, width))  # pyright: ignore[reportArgumentType]
        order = np.empty_like(places)
        order[moved.ravel()] = places
        orders.append(order)
    return orders


def _numbers(labels: Labels) -> list[dict[RoomId, RoomId]]:
    """For each of `SYMMETRIES`: old room name to new room name; the first pixel in raster order decides the number."""
    width = labels.shape[1]
    pixels: dict[str, list[NDArray[np.intp]]] = {}
    for label, where, mask in components(labels, ROOM_CLASSES):
        rows, columns = np.nonzero(mask)
        places = (rows + where[0].start) * width + columns + where[1].start
        pixels.setdefault(CLASS_NAMES[label], []).append(places)
    named: list[dict[RoomId, RoomId]] = []
    for order in _orders(*labels.shape):
        new: dict[RoomId, RoomId] = {}
        for kind, rooms in pixels.items():
            firsts = [int(order[where].min()) for where in rooms]
            for number, place in enumerate(np.argsort(np.argsort(firsts)), 1):
                new[RoomId(kind, number)] = RoomId(kind, int(place) + 1)
        named.append(new)
    return named


# ------------------------------------------------------------------------------------------------------ text alone

_PLACED = re.compile(rf"(?<=\bis)(\s+)({'|'.join(sorted(OFFSETS, key=len, reverse=True))})(?=\s)", re.IGNORECASE)


def mirrored(caption: str) -> str | None:
    """The caption of the image with left and right exchanged, in its own form; None when the text does not determine
    it.

    Numbers follow the raster order, which mirroring changes: a sentence can be kept only if the text counts exactly one
    room of each type that it names. For a text that does not parse the answer is None too.
    """
    try:
        spec = parse_spec(caption)
    except UserError:
        return None
    named = {room for pair in spec.connections or () for room in pair} | _placed(spec)
    if any(room.number != 1 or spec.count(room.kind) != 1 for room in named):
        return None
    return _PLACED.sub(lambda match: match[1] + mirrored_word(match[2].lower()), caption)
