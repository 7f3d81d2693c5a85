"""Check a text before any model is loaded: contradictions, rooms that are not counted, plans that do not fit.

In: a `Spec` or a text. Out: problems, each with the sentences in conflict. A plan with an error cannot exist; a warning
is about something unusual or redundant.

A position's word is an octant of the vector between two centroids, an open cone of 45 degrees, so a set of sentences
can hold if and only if a system of strict linear inequalities in the centroids has a solution. Along each of the four
axes that bound the octants (22.5, 67.5, 112.5 and 157.5 degrees) every word says which of its two rooms comes first;
sentences that form a cycle along one axis contradict each other, and the shortest cycle is looked for first.
Contradictions that no single axis shows are found by a linear programme: by Gordan's theorem the system has no solution
exactly if a non-negative, non-zero combination of its rows vanishes. A reported set is irreducible (without any one of
its sentences the others can hold), and it is the smallest set whenever that has at most four sentences: such a set is
always a cycle.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, Literal, cast

import numpy as np

from loraloom.utils.errors import UserError

from ..plan import Position
from ..vocabulary import M_PER_PX, OFFSETS, SIZE_PX, RoomId
from .spec import Spec, connection_sentence, count_item, parse_spec, position_sentence, upright


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a text.

    Attributes:
        message: One line for the user; it quotes the sentences.
        sentences: The sentences in conflict as `print_spec` writes them, counts as `2 bedroom`; empty when the problem
            belongs to no single sentence.
        kind: `error`: no plan meets the text; `warning`: one can, but it is unusual, or the text is redundant.
    """

    message: str
    sentences: tuple[str, ...] = ()
    kind: Literal["error", "warning"] = "error"


_MEDIAN_M2 = {
    "living room": 32.0,
    "master room": 13.6,
    "kitchen": 5.4,
    "bathroom": 3.8,
    "bedroom": 9.9,
    "balcony": 4.3,
    "storage": 2.0,
    "entrance": 2.0,
}
"""Median areas of 101 real plans; for the entrance, which is rare there, the area of the storage."""

_SIDE_M = SIZE_PX * M_PER_PX

_MOST_DOORS = {"bathroom": 4, "storage": 4, "entrance": 4, "balcony": 4, "kitchen": 6, "bedroom": 6, "master room": 6}
"""A larger number is a warning. The living room may have any number."""


def check_text(text: str) -> list[Problem]:
    """`check_spec` of a text; for a text that does not parse, one problem with the reason."""
    try:
        spec = parse_spec(text)
    except UserError as error:
        quoted = re.findall("“(.*?)”", f"{error.what} {error.got or ''}")
        return [Problem(" ".join(str(error).split()), tuple(quoted))]
    return check_spec(spec)


def check_spec(spec: Spec) -> list[Problem]:
    """All problems of a text, errors first; an empty list means that the text is good.

    Contradicting positions are reported as sets that share no sentence; after a repair further ones may be found.
    """
    checks: tuple[Callable[[Spec], Iterable[Problem]], ...] = (
        _counts,
        _ids,
        _self_relations,
        _contradictions,
        _duplicates,
        _size,
        _reach,
        _doors,
    )
    problems = [problem for check in checks for problem in check(spec)]
    return sorted(problems, key=lambda problem: problem.kind != "error")


def _list(sentences: Iterable[str]) -> str:
    return ", ".join(f"“{sentence}”" for sentence in sentences)


# ------------------------------------------------------------------------------------------------ counts and ids


def _counts(spec: Spec) -> Iterator[Problem]:
    """Problems of the counts alone."""
    if spec.counts is None:
        return
    for kind, times in Counter(kind for kind, _ in spec.counts).items():
        if times > 1:
            items = [count_item(*item) for item in spec.counts if item[0] == kind]
            yield Problem(f"the counts name {kind} {times} times: {_list(items)}", tuple(items))
    if sum(count for _, count in spec.counts) == 0:
        items = [count_item(*item) for item in spec.counts]
        yield Problem("the counts ask for no room at all", tuple(items))


def _mentions(spec: Spec) -> Iterator[tuple[RoomId, str]]:
    """Every named room with the sentence that names it, in the order of the text."""
    for pair in spec.connections or ():
        yield from ((room, connection_sentence(pair)) for room in pair)
    for position in spec.positions or ():
        yield from ((room, position_sentence(position)) for room in (position.subject, position.object))


def _ids(spec: Spec) -> Iterator[Problem]:
    """Rooms that are named and not counted, each once."""
    if spec.counts is None:
        return
    counts = dict(spec.counts)
    seen: set[RoomId] = set()
    for room, sentence in _mentions(spec):
        count = counts.get(room.kind)
        if room in seen or (count is not None and room.number <= count):
            continue
        seen.add(room)
        if count is None:
            yield Problem(f"“{sentence}” names {room}, but the counts do not list {room.kind}", (sentence,))
            continue
        item = count_item(room.kind, count)
        what = "none is counted" if count == 0 else f"only {count} {'is' if count == 1 else 'are'} counted"
        yield Problem(f"“{sentence}” names {room}, but {what}: “{item}”", (item, sentence))


def _self_relations(spec: Spec) -> Iterator[Problem]:
    """Rooms that are related to themselves."""
    for pair in dict.fromkeys(spec.connections or ()):
        if pair[0] == pair[1]:
            sentence = connection_sentence(pair)
            yield Problem(f"“{sentence}” connects a room with itself", (sentence,))
    for position in dict.fromkeys(spec.positions or ()):
        if position.subject == position.object:
            sentence = position_sentence(position)
            yield Problem(f"“{sentence}” places a room beside itself", (sentence,))


def _duplicates(spec: Spec) -> Iterator[Problem]:
    """Sentences that repeat another one."""
    groups: dict[object, list[str]] = {}
    for pair in spec.connections or ():
        groups.setdefault(frozenset(pair), []).append(connection_sentence(pair))
    for position in spec.positions or ():
        if position.subject != position.object:
            groups.setdefault(upright(position), []).append(position_sentence(position))
    for sentences in groups.values():
        if len(sentences) > 1:
            said = _list(dict.fromkeys(sentences))
            yield Problem(f"the same is said {len(sentences)} times: {said}", tuple(sentences), "warning")


# ------------------------------------------------------------------------------------------------ contradictions

_LONG, _SHORT = cos(pi / 8), sin(pi / 8)
_AXES = ((_LONG, _SHORT), (_SHORT, _LONG), (-_SHORT, _LONG), (-_LONG, _SHORT))
"""Unit vectors along the lines that bound the octants: every word decides the sign of each of the four products."""

_SIGNS = {word: tuple(1 if x * axis[0] + y * axis[1] > 0 else -1 for axis in _AXES) for word, (x, y) in OFFSETS.items()}
"""Sign of (subject - object) along each axis."""


def _cone(word: str) -> list[tuple[float, float]]:
    """Two inward normals: the octant is where both products are positive."""
    x, y = OFFSETS[word]
    bounding = sorted(range(4), key=lambda index: abs(x * _AXES[index][0] + y * _AXES[index][1]))[:2]
    return [(_SIGNS[word][index] * _AXES[index][0], _SIGNS[word][index] * _AXES[index][1]) for index in bounding]


def _contradictions(spec: Spec) -> Iterator[Problem]:
    """Sets of positions that cannot hold together; no two of the sets share a sentence."""
    left = [position for position in dict.fromkeys(spec.positions or ()) if position.subject != position.object]
    while conflict := _shortest_circle(left) or _conflict(left):
        sentences = tuple(position_sentence(position) for position in conflict)
        many = "both" if len(sentences) == 2 else "all"
        yield Problem(f"{_list(sentences)} cannot {many} hold", sentences)
        left = [position for position in left if position not in conflict]


def _shortest_circle(positions: Sequence[Position]) -> list[Position]:
    """The fewest positions that form a cycle along one axis, in the order of the text; empty when none do."""
    best: list[Position] = []
    for axis in range(len(_AXES)):
        after: dict[RoomId, dict[RoomId, Position]] = {}
        for position in positions:
            first, second = position.object, position.subject
            if _SIGNS[position.direction][axis] < 0:
                first, second = second, first
            after.setdefault(first, {}).setdefault(second, position)
        for start in _on_circles(after):
            found = _circle_through(start, after)
            if found and (not best or len(found) < len(best)):
                best = found
    return [position for position in positions if position in best]


def _on_circles(after: dict[RoomId, dict[RoomId, Position]]) -> list[RoomId]:
    """The rooms that remain when rooms without predecessors are removed repeatedly: every cycle, and its tails."""
    before = Counter(room for followers in after.values() for room in followers)
    free = [room for room in after if not before[room]]
    taken: set[RoomId] = set()
    while free:
        room = free.pop()
        taken.add(room)
        for follower in after.get(room, {}):
            before[follower] -= 1
            if not before[follower]:
                free.append(follower)
    return [room for room in after if room not in taken]


def _circle_through(start: RoomId, after: dict[RoomId, dict[RoomId, Position]]) -> list[Position]:
    """The shortest path from a room back to it."""
    came: dict[RoomId, tuple[RoomId, Position]] = {}
    waiting = deque([start])
    while waiting:
        room = waiting.popleft()
        for follower, position in after.get(room, {}).items():
            if follower == start:
                way = [position]
                while room != start:
                    room, position = came[room]
                    way.append(position)
                return way
            if follower not in came:
                came[follower] = room, position
                waiting.append(follower)
    return []


def _conflict(positions: Sequence[Position]) -> list[Position]:
    """An irreducible set of positions that cannot hold together; empty when all can."""
    conflict = _vanishing(positions)
    for position in list(conflict):
        rest = [other for other in conflict if other != position]
        if len(rest) < len(conflict) and (smaller := _vanishing(rest)):
            conflict = smaller
    return conflict


def _vanishing(positions: Sequence[Position]) -> list[Position]:
    """The positions with a share in a combination of inequalities that vanishes; empty when there is none.

    HiGHS answers with a vertex, whose support is small, so that few positions are left to try one by one.
    """
    from scipy.optimize import linprog  # pyright: ignore  # slow to import, and most texts need it once

    rooms = list(dict.fromkeys(room for position in positions for room in (position.subject, position.object)))
    if len(positions) < 3:  # two positions were already compared along the axes
        return []
    place = {room: index for index, room in enumerate(rooms)}
    columns = np.zeros((2 * len(rooms) + 1, 2 * len(positions)))
    columns[-1] = 1
    for index, position in enumerate(positions):
        for row, normal in enumerate(_cone(position.direction)):
            for part in (0, 1):
                columns[2 * place[position.subject] + part, 2 * index + row] += normal[part]
                columns[2 * place[position.object] + part, 2 * index + row] -= normal[part]
    total = np.zeros(len(columns))
    total[-1] = 1
    answer = cast("Any", linprog(np.zeros(columns.shape[1]), A_eq=columns, b_eq=total, method="highs-ds"))
    if answer.status != 0:
        return []
    shares = np.asarray(answer.x).reshape(-1, 2).max(axis=1)
    return [position for position, share in zip(positions, shares, strict=True) if share > 1e-9]


# ------------------------------------------------------------------------------------------------ what hardly fits


def _size(spec: Spec) -> Iterator[Problem]:
    """Rooms of ordinary size that do not fit on the image."""
    area = sum(_MEDIAN_M2[kind] * count for kind, count in spec.counts or ())
    if area > _SIDE_M**2:
        items = tuple(count_item(*item) for item in spec.counts or () if item[1])
        room = f"{_SIDE_M:.0f} m x {_SIDE_M:.0f} m"
        yield Problem(
            f"rooms of usual size would take {area:.0f} m2, an image is {room}: {_list(items)}", items, "warning"
        )


def _reach(spec: Spec) -> Iterator[Problem]:
    """Rooms that no sentence connects, or that are not connected with the others."""
    if spec.connections is None:
        return
    if spec.connections and spec.count("living room") == 0:
        yield Problem("rooms are connected, but there is no living room", (count_item("living room", 0),), "warning")
    neighbours: dict[RoomId, set[RoomId]] = {room: set() for room in spec.rooms()}
    for first, second in spec.connections:
        if first != second:
            neighbours[first].add(second)
            neighbours[second].add(first)
    alone = [room for room, others in neighbours.items() if not others]
    if alone and len(neighbours) > 1:
        yield Problem(f"no sentence connects {', '.join(map(str, alone))}", (), "warning")
    groups: list[set[RoomId]] = []
    for room in neighbours:
        if neighbours[room] and not any(room in group for group in groups):
            groups.append(_reached(room, neighbours))
    for group in groups[1:]:
        names = ", ".join(str(room) for room in neighbours if room in group)
        said = tuple(connection_sentence(pair) for pair in spec.connections if pair[0] in group)
        main = next(room for room in neighbours if room in groups[0])
        yield Problem(f"no sentence connects {names} with {main} and the rest", said, "warning")


def _reached(start: RoomId, neighbours: dict[RoomId, set[RoomId]]) -> set[RoomId]:
    found, waiting = {start}, [start]
    while waiting:
        new = neighbours[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _doors(spec: Spec) -> Iterator[Problem]:
    """More doors than a room has walls for, or than a planar plan can have."""
    pairs = {frozenset(pair): pair for pair in spec.connections or () if pair[0] != pair[1]}
    rooms = sorted({room for pair in pairs for room in pair}, key=lambda room: room.rank)
    for room in rooms:
        said = tuple(connection_sentence(pair) for key, pair in pairs.items() if room in key)
        if len(said) > _MOST_DOORS.get(room.kind, len(said)):
            yield Problem(f"{room} has {len(said)} doors: {_list(said)}", said, "warning")
    # Euler: a planar graph of n >= 3 nodes has at most 3 n - 6 edges. It finds the complete graph of five rooms, not
    # all.
    if len(rooms) >= 3 and len(pairs) > 3 * len(rooms) - 6:
        said = tuple(map(connection_sentence, pairs.values()))
        yield Problem(
            f"{len(rooms)} rooms cannot have {len(pairs)} connections on one floor without crossing: {_list(said)}",
            said,
            "warning",
        )
