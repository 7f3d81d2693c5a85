"""Convert plain free text to a spec, as far as the rules for plain words allow.

In: a wish in everyday words ("two bedrooms, kitchen left of the living room"). Out: the spec, the understood words with
their meaning, and the other words. Nothing is dropped silently: every word but the few `FILLERS` is in an understood
clause or among the ignored words. A relation is read only where both of its sides are certain; words that make it
doubtful (not, or, if), nearness without a door, and rooms outside the vocabulary are reported to the user. So is a
number that is not plain ("two or three", "at least two", "1.5"): the room and its number are not read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loraloom.protocols.domain import Unread

from ..plan import Position
from ..vocabulary import ROOM_TYPES, RoomId, style_of
from .clauses import VERBS
from .enumerations import (
    TOPIC_ENDS,
    TOPICS,
    Member,
    is_pronoun_between,
    is_word,
    listed_before,
    listed_behind,
    objects_of,
    subjects_of,
)
from .mentions import read
from .phrases import FILLERS, is_loose_name
from .reading import Item, Reading, Relation
from .spec import Spec, connection_sentence, count_item, position_sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """The result of reading free text.

    Attributes:
        spec: All three sections; counted are the types that are mentioned and no others, in the order of `ROOM_TYPES`.
            Its counts are None where nothing was read and the living room is doubtful too.
        understood: (words, what they came to) in the order of the text, the words verbatim; they are empty for what was
            assumed.
        ignored: The words that were not understood, verbatim, in the order of the text.
        unread: The same as rooms and phrases, each once and in lower case, with how often it stands there; and where
            the text leaves a choice, what was taken: "common room" as bedroom, "bathroom" as bathroom #1 of 2.
    """

    spec: Spec
    understood: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    unread: Unread


def spec_from_words(text: str) -> Understood:
    """Read a wish. Never raises; words that it cannot read are returned as ignored.

    The text may begin with a style's header, which then gives the spec's style: `Plain FloorPlan Generation: two
    bedrooms`.
    """
    style, wish = style_of(text), text.lstrip()
    if wish.lower().startswith(style.header.lower()):
        text = wish[len(style.header) :].lstrip(" .:,;\n")
    reading = read(text)
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind in ("direction", "door"):
            _relate(reading, index)
        elif phrase.kind == "direction-after":
            _relate_korean(reading, index)
        elif phrase.kind in ("doors", "between", "door-after"):
            _relate_group(reading, index)
    found = _result(reading)
    return replace(found, spec=replace(found.spec, style=style.name))


# ------------------------------------------------------------------------------------------------------ relations

_DOUBT = ("not", "or", "none")


def _relate(reading: Reading, index: int) -> None:
    """Subject, relation, object; "left of the living room is the kitchen" has its object first."""
    found = objects_of(reading, index)
    objects, end = found.items, found.last
    if not objects:
        return
    if reading.kind(index) == "direction" and (_opens_sentence(reading, index) or _is_turned(reading, index, objects)):
        if not found.is_first_known:
            return
        objects = objects[:1]
        place = reading.skip(objects[0].last + 1, 1, ("filler", "comma"))
        subject = reading.item_at(place)
        subjects = (
            [subject]
            if subject and place > objects[0].last + 1 and not is_pronoun_between(reading, objects[0], place)
            else []
        )
        end = subject.last if subject else end
    else:
        subjects = subjects_of(reading, index)
    if subjects:
        _add(reading, index, subjects, objects, min(index, *(item.first for item in subjects)), end)


def _opens_sentence(reading: Reading, index: int) -> bool:
    return reading.kind(reading.skip(index - 1, -1, ("filler", "comma", "and"))) == "stop"


def _is_turned(reading: Reading, index: int, objects: list[Item]) -> bool:
    """Whether a clause within a sentence has its object first: "a bath, and left of the kitchen is the bedroom"."""
    behind = objects[0].last + 1
    is_verb = behind < len(reading.phrases) and reading.phrases[behind].value in VERBS
    return is_verb and reading.kind(index - 1) in ("comma", "and")


_PLACES = frozenset(["에", "에는", "에서", "의", "로", "으로"])
"""Between a Korean direction and a subject behind it."""


def _relate_korean(reading: Reading, index: int) -> None:
    """Korean names the object just before the word: "안방은 거실 왼쪽에", "거실 왼쪽에 안방"."""
    item = reading.item_at(reading.skip(index - 1, -1))
    if item is None:
        return
    place = item.first - 1
    while reading.kind(place) == "filler" and reading.phrases[place].value in TOPICS:
        place -= 1
    before = reading.item_at(place)
    after = index + 1
    while reading.kind(after) == "filler" and reading.phrases[after].value in _PLACES:
        after += 1
    behind = reading.item_at(after) if reading.kind(item.first - 1) in ("stop", "comma") else None
    taken = {id(each) for relation in reading.relations for each in (*relation.objects, *relation.subjects)}
    subject = before if before is not None and before is not item and id(before) not in taken else behind
    if subject is not None and subject is not item:
        last = max(subject.last, index)
        group = listed_before(reading, place) if subject is before else []
        subjects = [member.item for member in group if member.item] or [subject]
        _add(reading, index, subjects, [item], min(subjects[0].first, item.first), last)


def _relate_group(reading: Reading, index: int) -> None:
    """ "a door between A and B", "A and B are connected", and the same in Korean: exactly two rooms. Of three or more
    rooms it is not certain which are connected, unless the text is "connect A and B to C".
    """
    find = _joined_behind if reading.kind(index) == "between" else _joined_before
    group, others, is_split = find(reading, index)
    members = [*group, *others]
    if not members:
        return
    first, last = (min(index, *(each.first for each in members)), max(index, *(each.last for each in members)))
    rooms, partners = ([member.item for member in each if member.item] for each in (group, others))
    if is_split:
        if rooms and partners:
            _add(reading, index, rooms, partners, first, last)
    elif len(group) == 2 and len(rooms) == 2:
        _add(reading, index, rooms[:1], rooms[1:], first, last)
    elif len(group) > 2:
        reading.uncertain.append((first, last))


Joined = tuple[list[Member], list[Member], bool]
"""An enumeration, the enumeration joined with it, and whether the second is required."""


def _joined_behind(reading: Reading, index: int) -> Joined:
    """Rooms after "connect" or "door between"."""
    group = listed_behind(reading, index + 1)
    place = group[-1].last + 1 if group else index
    towards = reading.kind(place) == "filler" and reading.phrases[place].value in ("to", "with")
    if towards and "between" not in reading.phrases[index].value:
        return group, listed_behind(reading, place + 1), True
    behind = reading.kind(reading.skip(place, 1, ("filler", "not", "all")))
    return (group[:-1] if len(group) > 2 and behind not in ("stop", "comma", "and") else group), [], False


def _joined_before(reading: Reading, index: int) -> Joined:
    """Rooms before "are connected", or the Korean words for it, where a topic separates the sides: "거실은 주방, 욕실과
    연결된다"."""
    group = listed_before(reading, reading.skip(index - 1, -1, ("filler", "and")))
    place = group[0].first - 1 if group else -1
    if reading.kind(index) != "door-after" or place < 0:
        return group, [], False
    word = reading.phrases[place].value
    is_topic = reading.kind(place) == "filler" and word in TOPICS
    if is_topic or (reading.kind(place) == "other" and word.endswith(TOPIC_ENDS)):
        return group, listed_before(reading, place - is_topic), True
    return group, [], False


def _add(reading: Reading, index: int, subjects: list[Item], objects: list[Item], first: int, last: int) -> None:
    """Keep a relation unless a word between its rooms, or just after them, makes it doubtful."""
    doubtful = any(reading.kind(place) in _DOUBT for place in (*range(first, last + 1), reading.skip(first - 1, -1)))
    doubtful |= reading.kind(reading.skip(last + 1, 1)) in ("not", "or")  # "... with no balcony" is another matter
    if doubtful or any(item.count == 0 or item.doubt for item in (*subjects, *objects)):
        return
    word = reading.phrases[index].value if reading.kind(index).startswith("direction") else ""
    reading.relations.append(Relation(word=word, subjects=subjects, objects=objects, first=first, last=last))
    reading.used.add(index)
    for item in (*subjects, *objects):
        item.stated = True


# ------------------------------------------------------------------------------------------------------ the result


def _counts(reading: Reading) -> dict[str, int]:
    """Number of rooms of each named type. Of several numbers for one type the largest counts, whatever ids are named;
    "no" counts if nothing else is said.
    """
    counts: dict[str, int] = {}
    for kind in ROOM_TYPES:
        items = [item for item in reading.items if item.kind == kind and not item.doubt]
        numbers = [item.count for item in items if item.count]
        mentions = [max(2 if item.every and not item.ids else 1, *item.ids, 1) for item in items if item.count is None]
        if items:
            counts[kind] = min(999, max(numbers or mentions or [0]))
    return counts


def _rooms(item: Item, counts: dict[str, int]) -> list[RoomId]:
    if item.ids:
        return [RoomId(item.kind, min(number, 999)) for number in item.ids]
    return [RoomId(item.kind, number) for number in range(1, counts[item.kind] + 1 if item.every else 2)]


_MOST_PAIRS = 100
"""Largest number of sentences of a clause; one with more ("200 bedrooms left of 200 baths") is not understood."""


def _pairs(relation: Relation, counts: dict[str, int]) -> list[tuple[RoomId, RoomId]]:
    if _is_part(relation, counts):
        return []
    subjects = [room for item in relation.subjects for room in _rooms(item, counts)]
    objects = [room for item in relation.objects for room in _rooms(item, counts)]
    if len(subjects) * len(objects) > _MOST_PAIRS:
        return []
    return [(subject, other) for subject in subjects for other in objects if subject != other]


def _is_part(relation: Relation, counts: dict[str, int]) -> bool:
    """Whether an item means some rooms of a type without saying which: two of three."""
    items = (*relation.subjects, *relation.objects)
    return any(item.count and item.every and item.count < counts[item.kind] for item in items)


def _result(reading: Reading) -> Understood:
    counts = _counts(reading)
    said: list[tuple[int, str, str]] = []
    taken = _taken_names(reading)
    connections: dict[frozenset[RoomId], tuple[RoomId, RoomId]] = {}
    positions: dict[Position, None] = {}
    for relation in reading.relations:
        sentences: list[str] = []
        for subject, other in _pairs(relation, counts):
            if relation.word:
                position = Position(subject, relation.word, other)
                positions[position] = None
                sentences.append(position_sentence(position))
            else:
                low, high = sorted((subject, other), key=lambda room: room.rank)
                connections.setdefault(frozenset((low, high)), (low, high))
                sentences.append(connection_sentence((low, high)))
        if sentences:
            items = (*relation.subjects, *relation.objects)
            note = _note(items, counts)
            taken.update(
                (reading.words(item.first, item.last).lower(), f"{item.kind} #1 of {counts[item.kind]}")
                for item in items
                if _is_unclear(item, counts)
            )
            said.append((relation.first, reading.words(relation.first, relation.last), " ".join(sentences) + note))
        else:
            reading.used.difference_update(range(relation.first, relation.last + 1))
            if _is_part(relation, counts):
                reading.uncertain.append((relation.first, relation.last))
    _tell_rooms(reading, counts, said)
    if not any(item.kind == "living room" for item in reading.items):
        counts = {"living room": 1, **counts}
        said.append((len(reading.phrases), "", "assumed: 1 living room, as every plan has one"))
    # Sections without a word in the text are left out: an empty section would say that there are none.
    spec = Spec(
        style="sjh",
        counts=tuple(counts.items()) or None,
        connections=tuple(connections.values()) or None,
        positions=tuple(positions) or None,
    )
    said.sort(key=lambda entry: entry[0])
    unread = Unread(_unknown(reading), tuple((*choice, times) for choice, times in taken.items()))
    return Understood(
        spec=spec,
        understood=tuple((words, what) for _, words, what in said),
        ignored=_left_over(reading),
        unread=unread,
    )


def _taken_names(reading: Reading) -> Counter[tuple[str, str]]:
    """Names that may mean another room than the assumed one."""
    names: Counter[tuple[str, str]] = Counter()
    for item in reading.items:
        place = next((each for each in range(item.first, item.last + 1) if reading.kind(each) == "room"), None)
        if place is not None and not item.doubt and is_loose_name(words := reading.words(place, place)):
            names[" ".join(words.lower().split()), item.kind] += 1
    return names


def _is_unclear(item: Item, counts: dict[str, int]) -> bool:
    return counts[item.kind] > 1 and not item.ids and not item.every


def _tell_rooms(reading: Reading, counts: dict[str, int], said: list[tuple[int, str, str]]) -> None:
    """Report the meaning of rooms outside relations; a "no" that another mention overrides is not understood."""
    for item in reading.items:
        if item.doubt:
            continue
        if item.count == 0 and counts[item.kind]:
            reading.used.difference_update(range(item.first, item.last + 1))
        elif not item.stated or item.count is not None or item.first not in reading.used:
            what = (
                [str(room) for room in _rooms(item, counts)] if item.ids else [count_item(item.kind, counts[item.kind])]
            )
            said.append((item.first, reading.words(item.first, item.last), ", ".join(what)))
            reading.used.update(place for place in range(item.first, item.last + 1) if reading.kind(place) in _OF_ITEMS)


_OF_ITEMS = ("room", "number", "counted", "id", "ordinal", "none", "none-after", "all", "and", "or", "ensuite", "comma")


def _note(items: Sequence[Item], counts: dict[str, int]) -> str:
    """The numbers that were chosen where the text leaves them open."""
    unclear = {item.kind for item in items if _is_unclear(item, counts)}
    return "".join(f" (of {counts[kind]}, {kind} #1 is taken)" for kind in sorted(unclear))


def _left_over(reading: Reading) -> tuple[str, ...]:
    """The words that were not understood, verbatim."""
    return tuple(reading.words(first, last) for first, last in _runs(reading))


def _unknown(reading: Reading) -> tuple[tuple[str, int], ...]:
    """Runs of unread words, cut where a relation or another phrase begins, so that "study" is the same run in every
    relation; an uncertain enumeration is listed as a whole."""
    found: Counter[str] = Counter()
    spans: set[tuple[int, int]] = set()
    for first, last in _runs(reading):
        pieces: list[list[int]] = []
        for index in range(first, last + 1):
            kind = reading.kind(index)
            span = next((each for each in reading.uncertain if each[0] <= index <= each[1]), None)
            if span is not None:
                pieces += [list(span)] if span not in spans else []
                spans.add(span)
                continue
            if kind in _OF_WORDS or is_word(reading, index):
                kind = "words"
            if not kind or (kind in ("filler", "and", "who") and index > first):
                continue
            whole = (
                pieces
                and kind == "words"
                and reading.kind(pieces[-1][1]) not in _RELATING
                and pieces[-1][1] == index - 1
            )
            if whole:
                pieces[-1][1] = index
            else:
                pieces.append([index, index])
        found.update(" ".join(reading.words(*piece).lower().split()) for piece in pieces)
    return tuple(found.items())


_OF_WORDS = ("other", "number", "counted", "id", "ordinal", "none", "doubt", "or", "not", "all", "unit", "room")
_RELATING = (
    "direction",
    "direction-after",
    "door",
    "doors",
    "door-after",
    "between",
    "near",
    "ensuite",
)


def _runs(reading: Reading) -> list[list[int]]:
    """First and last phrases of runs that were not understood; fillers inside a run belong to it."""
    runs: list[list[int]] = []
    is_new = True
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind in ("stop", "comma") or index in reading.used:
            is_new = True
        elif phrase.kind not in ("filler", "and", "who") and reading.words(index, index).lower() not in FILLERS:
            if is_new:
                runs.append([index, index])
            runs[-1][1] = index
            is_new = False
    return runs
