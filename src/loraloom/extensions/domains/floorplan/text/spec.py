"""The structured text of a plan: parse it, print it.

In: the text in its file form or on one line. Out: `Spec`, and from it the text byte for byte as the real files have it
(trailing blanks, "have", singular nouns and zero counts are theirs). Every mistake names its sentence.

    prompt = header counts [conns] [poss]
    counts = "[Number and Type of Rooms]" "The floorplan have" n type {"," n type}
    conns  = "[Connection Between Rooms]" {room "and" room "are connected."}
    poss   = "[Positional Relationship Between Rooms]" {room "is" direction room "."}
    room   = type "#" n
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from loraloom.utils.errors import UserError, did_you_mean

from ..plan import Plan, Position
from ..vocabulary import OFFSETS, ROOM_TYPES, STYLES, RoomId, Style, inverse, style_of

COUNTS, CONNECTIONS, POSITIONS = (
    "[Number and Type of Rooms]",
    "[Connection Between Rooms]",
    "[Positional Relationship Between Rooms]",
)
_SECTIONS = {name.lower(): name for name in (COUNTS, CONNECTIONS, POSITIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The content of a text.

    Attributes:
        style: Key in `STYLES`; determines the header.
        counts: (type, number) in the order of the text; None when the section is missing.
        connections: Pairs as written; None when the section is missing.
        positions: Positions as written; None when the section is missing.
    """

    style: str = "sjh"
    counts: tuple[tuple[str, int], ...] | None = None
    connections: tuple[tuple[RoomId, RoomId], ...] | None = None
    positions: tuple[Position, ...] | None = None

    def count(self, kind: str) -> int | None:
        """Number of rooms of a type that the text asks for; None when it does not say."""
        return dict(self.counts).get(kind) if self.counts is not None else None

    def rooms(self) -> list[RoomId]:
        """Every room that is counted or mentioned, by rank."""
        found = {RoomId(kind, number) for kind, count in self.counts or () for number in range(1, count + 1)}
        found |= {room for pair in self.connections or () for room in pair}
        found |= {room for position in self.positions or () for room in (position.subject, position.object)}
        return sorted(found, key=lambda room: room.rank)


def spec_of(plan: Plan, style: Style | str = "sjh") -> Spec:
    """The full text of a plan, as the annotator would write it."""
    name = style if isinstance(style, str) else style.name
    return Spec(style=name, counts=tuple(plan.counts.items()), connections=plan.connections, positions=plan.positions)


def upright(position: Position) -> Position:
    """The same statement in the order of texts by rule: the room of higher rank is the subject."""
    if position.subject.rank >= position.object.rank:
        return position
    return Position(position.object, inverse(position.direction), position.subject)


# ------------------------------------------------------------------------------------------------------- printing


def count_item(kind: str, count: int) -> str:
    """`2 bedroom`."""
    return f"{count} {kind}"


def connection_sentence(pair: tuple[RoomId, RoomId]) -> str:
    """`living room #1 and bedroom #2 are connected.`"""
    return f"{pair[0]} and {pair[1]} are connected."


def position_sentence(position: Position) -> str:
    """`bedroom #2 is left-of master room #1.`"""
    return f"{position.subject} is {position.direction} {position.object}."


def print_spec(spec: Spec) -> str:
    """The file form, with a line end at the end."""
    blocks: list[list[str]] = [[f"{STYLES[spec.style].header} "]]
    if spec.counts is not None:
        blocks[0] += [f"{COUNTS} ", "The floorplan have " + ", ".join(count_item(*item) for item in spec.counts)]
    if spec.connections is not None:
        blocks.append([CONNECTIONS, *map(connection_sentence, spec.connections)])
    if spec.positions is not None:
        blocks.append([POSITIONS, *map(position_sentence, spec.positions)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


# ------------------------------------------------------------------------------------------------------- parsing

_SECTION = re.compile(r"\[[^\[\]]*\]")
_ROOM = r"(?P<{0}>[^#.\[\]]+?)\s*\#\s*(?P<{0}_number>\d+)"
_CONNECTION = re.compile(rf"{_ROOM.format('a')}\s+and\s+{_ROOM.format('b')}\s+are\s+connected", re.IGNORECASE)
_POSITION = re.compile(rf"{_ROOM.format('a')}\s+is\s+(?P<direction>[a-z-]+)\s+{_ROOM.format('b')}", re.IGNORECASE)
_COUNTS = re.compile(r"The\s+floorplan\s+ha(?:ve|s)\s+(?P<items>.+)", re.IGNORECASE | re.DOTALL)
_ITEM = re.compile(r"(?P<count>\d+)\s+(?P<kind>[^\d,]+)")


def _quoted(sentence: str) -> str:
    line = " ".join(sentence.split())
    return f"“{line if len(line) <= 120 else line[:117] + '...'}”"


def _kind(word: str, sentence: str) -> str:
    name = " ".join(word.lower().split())
    if name not in ROOM_TYPES:
        raise UserError(f"unknown room type in {_quoted(sentence)}", got=name, fix=did_you_mean(name, ROOM_TYPES))
    return name


def _room(match: re.Match[str], group: str, sentence: str) -> RoomId:
    digits = match[f"{group}_number"]
    if len(digits) > 3 or int(digits) < 1:
        raise UserError(f"room number out of range in {_quoted(sentence)}", got=digits, expected="1 .. 999")
    return RoomId(_kind(match[group], sentence), int(digits))


def _parse_counts(body: str) -> tuple[tuple[str, int], ...]:
    sentence = " ".join(body.split()).rstrip(". ")
    match = _COUNTS.fullmatch(sentence)
    if not match:
        raise UserError(
            f"the section {COUNTS} is not understood",
            got=_quoted(body),
            expected="“The floorplan have 1 living room, ...”",
        )
    counts: list[tuple[str, int]] = []
    for part in match["items"].split(","):
        item = _ITEM.fullmatch(part.strip())
        if not item:
            raise UserError(
                "a count is not understood", got=_quoted(part), expected="a number and a room type: “2 bedroom”"
            )
        kind = _kind(item["kind"], part)
        if len(item["count"]) > 3:
            raise UserError(f"count out of range in {_quoted(part)}", got=item["count"], expected="0 .. 999")
        if kind in dict(counts):
            raise UserError(f"the counts name {kind} twice", got=_quoted(part), fix="keep one of them")
        counts.append((kind, int(item["count"])))
    return tuple(counts)


def _sentences(body: str) -> Iterator[str]:
    # White space becomes single blanks first: on a long run of it the patterns would backtrack over every division.
    yield from (" ".join(part.split()) for part in re.split(r"\.(?=\s|$)", body) if part.strip())


def _parse_connections(body: str) -> tuple[tuple[RoomId, RoomId], ...]:
    pairs: list[tuple[RoomId, RoomId]] = []
    for sentence in _sentences(body):
        match = _CONNECTION.fullmatch(sentence)
        if not match:
            raise UserError(
                f"a sentence below {CONNECTIONS} is not understood",
                got=_quoted(sentence),
                expected="“living room #1 and bedroom #2 are connected.”",
            )
        pairs.append((_room(match, "a", sentence), _room(match, "b", sentence)))
    return tuple(pairs)


def _parse_positions(body: str) -> tuple[Position, ...]:
    positions: list[Position] = []
    for sentence in _sentences(body):
        match = _POSITION.fullmatch(sentence)
        if not match:
            raise UserError(
                f"a sentence below {POSITIONS} is not understood",
                got=_quoted(sentence),
                expected="“bedroom #2 is left-of master room #1.”",
            )
        word = match["direction"].lower()
        if word not in OFFSETS:
            raise UserError(f"unknown direction in {_quoted(sentence)}", got=word, fix=did_you_mean(word, OFFSETS))
        positions.append(Position(_room(match, "a", sentence), word, _room(match, "b", sentence)))
    return tuple(positions)


def parse_spec(text: str) -> Spec:
    """Read a structured text, in the file form or on one line.

    Nothing is compared with anything else here (`check.py` does that); rooms keep their ids.

    Raises:
        UserError: The text does not follow the grammar; names the sentence.
    """
    style = style_of(text)
    marks = list(_SECTION.finditer(text))
    head = text[: marks[0].start()] if marks else text
    if " ".join(head.lower().split()) not in ("", style.header.lower()):
        raise UserError(
            "the text begins with something else than its header", got=_quoted(head), expected=f"“{style.header}”"
        )
    if not marks and not head.strip():
        raise UserError(
            "the text has no section", got=_quoted(text), expected=f"{COUNTS}, {CONNECTIONS} or {POSITIONS}"
        )
    bodies: dict[str, str] = {}
    for index, mark in enumerate(marks):
        name = _SECTIONS.get(" ".join(mark[0].lower().split()))
        if name is None:
            raise UserError("unknown section", got=mark[0], fix=did_you_mean(mark[0], _SECTIONS.values()))
        if name in bodies:
            raise UserError(f"the section {name} is a duplicate", fix="put its sentences together")
        bodies[name] = text[mark.end() : marks[index + 1].start() if index + 1 < len(marks) else len(text)]
    return Spec(
        style=style.name,
        counts=_parse_counts(bodies[COUNTS]) if COUNTS in bodies else None,
        connections=_parse_connections(bodies[CONNECTIONS]) if CONNECTIONS in bodies else None,
        positions=_parse_positions(bodies[POSITIONS]) if POSITIONS in bodies else None,
    )


# --------------------------------------------------------------------------------------------------- other texts

_SENTENCE = re.compile(r"[^.\[\]]+\.?")


def without(text: str, sentences: Collection[str]) -> str:
    """A structured text without some of its connections and positions; everything else stays as it is written.

    Args:
        text: Text in any form that `parse_spec` reads.
        sentences: Sentences to leave out, as `print_spec` writes them.
    """
    return _SENTENCE.sub(lambda match: "" if _as_printed(match[0]) in sentences else match[0], text)


def also_connected(text: str, pairs: Collection[tuple[RoomId, RoomId]]) -> str:
    """A structured text with additional connections, first in their section; unchanged where it has no such section."""
    added = "".join(f"\n{connection_sentence(pair)}" for pair in pairs)
    heading = next(
        (mark for mark in _SECTION.finditer(text) if " ".join(mark[0].lower().split()) == CONNECTIONS.lower()), None
    )
    return text[: heading.end()] + added + text[heading.end() :] if heading else text


def _as_printed(sentence: str) -> str:
    """A connection or position as `print_spec` writes it; anything else as it is."""
    with suppress(UserError):
        return " ".join(map(connection_sentence, _parse_connections(sentence)))
    with suppress(UserError):
        return " ".join(map(position_sentence, _parse_positions(sentence)))
    return sentence


def with_counts(text: str, counts: Mapping[str, int]) -> str:
    """A structured text with other numbers for the types that it counts; types that it does not count are not added."""
    for kind, count in counts.items():
        words = r"\s+".join(kind.split())
        text = re.sub(rf"(?<![#\d])\d+(?=\s+{words}\b)", str(count), text, count=1, flags=re.IGNORECASE)
    return text
