"""Plain free text to a spec, as far as plain rules reach.

In: a wish in everyday words ("two bedrooms, kitchen left of the living room"). Out: the spec, what was understood and
from which words, and the words that were not. Nothing is dropped silently: every word but the few `FILLERS` stands in an
understood clause or among the ignored words. A relation is taken only where its two sides are plain; words that make it
doubtful (not, or, if), nearness without a door, and rooms outside the vocabulary leave it to the user. So does a number
that is not plain ("two or three", "at least two", "1.5"): the room and its number stay unread.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..plan import Position
from ..vocabulary import ROOM_TYPES, RoomId, style_of
from .clauses import heads_clause, is_determiner
from .mentions import Item, Reading, Relation, read
from .phrases import FILLERS, PLURAL_VERBS
from .spec import Spec, connection_sentence, count_item, position_sentence


@dataclass(frozen=True, slots=True)
class Understood:
    """What free text came to.

    Attributes:
        spec: All three sections; counted are the types that are mentioned and no others, in the order of `ROOM_TYPES`.
            Its counts are None where nothing was read and the living room is doubtful too.
        understood: (words, what they came to) in the order of the text, the words verbatim; they are empty for what was
            assumed.
        ignored: The words that were not understood, verbatim, in the order of the text.
        unknown: The same as rooms and phrases, each once and in lower case, with how often it stands there.
    """

    spec: Spec
    understood: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...] = ()

    @property
    def gaps(self) -> str:
        """What was not understood, in one line; empty where all was."""
        listed = [f"{words!r}" + (f" ({times} times)" if times > 1 else "") for words, times in self.unknown]
        return f"not understood: {', '.join(listed)}" if listed else ""


def spec_from_words(text: str) -> Understood:
    """Read a wish. Never raises; what it cannot read is returned as ignored.

    It may stand under a style's header, which then names the spec's style: `Plain FloorPlan Generation: two bedrooms`.
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
_VERBS = frozenset([
    "is", "are", "was", "were", "has", "have", "lies", "lie", "sits", "stands", "goes", "located", "situated", "placed",
    "positioned", "found", "should", "shall", "must", "will", "can", "may",
])  # fmt: skip
_PRONOUNS = frozenset(["it", "it's", "its"])
_PARTS = frozenset([
    "window", "windows", "wall", "walls", "corner", "corners", "side", "door", "doors", "edge", "end", "sink", "stairs",
])  # fmt: skip
"""Behind a room they are what is meant: "left of the kitchen window"."""


def _relate(reading: Reading, index: int) -> None:
    """Subject, relation, object; "left of the living room is the kitchen" has its object first."""
    objects, end = _objects(reading, index)
    if not objects:
        return
    if reading.kind(index) == "direction" and (_opens_sentence(reading, index) or _is_turned(reading, index, objects)):
        objects = objects[:1]
        place = reading.skip(objects[0].last + 1, 1, ("filler", "comma"))
        subject = reading.item_at(place)
        subjects = (
            [subject] if subject and place > objects[0].last + 1 and not _pronoun(reading, objects[0], place) else []
        )
        end = subject.last if subject else end
    else:
        subjects = _subjects(reading, index)
    if subjects:
        _add(reading, index, subjects, objects, min(index, *(item.first for item in subjects)), end)


def _opens_sentence(reading: Reading, index: int) -> bool:
    return reading.kind(reading.skip(index - 1, -1, ("filler", "comma", "and"))) == "stop"


def _is_turned(reading: Reading, index: int, objects: list[Item]) -> bool:
    """Whether a clause within a sentence has its object first: "a bath, and left of the kitchen is the bedroom"."""
    behind = objects[0].last + 1
    is_verb = behind < len(reading.phrases) and reading.phrases[behind].value in _VERBS
    return is_verb and reading.kind(index - 1) in ("comma", "and")


def _objects(reading: Reading, index: int) -> tuple[list[Item], int]:
    """The rooms behind a relation: the first, and what an "and" or a list for doors joins to it."""
    place, others = index + 1, 0
    while is_determiner(reading, place):
        place += 1
    while reading.kind(place) == "other" and others < 2:  # "left of the large living room"
        others, place = others + 1, place + 1
    first = reading.item_at(place)
    if first is None or _is_part(reading, first):
        return [], index
    found, joints = [first], list[str]()
    while True:
        place = found[-1].last + 1
        joint = reading.skip(place, 1, ("comma", "and"))
        following = reading.item_at(reading.skip(joint, 1))
        if joint == place or following is None or following.count is not None or following.first <= found[-1].first:
            break
        joints.append("and" if "and" in {reading.kind(each) for each in range(place, joint)} else "comma")
        found.append(following)
    behind = reading.kind(reading.skip(found[-1].last + 1, 1, ("filler", "not", "all")))
    if len(found) > 1 and behind not in ("stop", "comma", "and"):  # the list's end is the subject of what follows
        return found[:1], first.last
    if reading.kind(index) == "door" and "and" in joints:  # "connected to the kitchen, bath and balcony"
        length = len(joints) - joints[::-1].index("and") + 1
    else:
        length = 1 + next((number for number, joint in enumerate(joints) if joint != "and"), len(joints))
    return found[:length], found[length - 1].last


def _subjects(reading: Reading, index: int) -> list[Item]:
    """The rooms before a relation."""
    place = reading.skip(index - 1, -1, ("filler", "who"))
    joint = reading.skip(place, -1, ("filler", "comma", "and", "who"))
    item = reading.item_at(joint)
    if item is None or _pronoun(reading, item, index):
        return []
    said_who = any(reading.kind(each) == "who" for each in range(item.last + 1, index))
    last = next((relation for relation in reversed(reading.relations) if item in relation.objects), None)
    if said_who:
        return [item] if item.count != 0 else []
    if last is not None:
        return last.subjects if joint != place else []  # "left of the kitchen, below the bath": the subject goes on
    is_said = any(reading.phrases[each].value in _VERBS for each in range(item.last + 1, index))
    if item.count == 0 or not heads_clause(reading, item, is_said=is_said, elided=joint != place):
        return []
    group = [item]
    if joint != place:
        return group
    plural = any(reading.tokens[token].text in PLURAL_VERBS for token in _tokens(reading, item.last + 1, index))
    taken = {id(each) for relation in reading.relations for each in (*relation.objects, *relation.subjects)}
    while True:
        end = reading.skip(group[0].first - 1, -1)
        start = reading.skip(end, -1, ("comma", "and"))
        previous = reading.item_at(reading.skip(start, -1))
        kinds = {reading.kind(each) for each in range(start + 1, end + 1)}
        joined = "and" in kinds or (len(group) > 1 and kinds)
        if previous is None or not joined or id(previous) in taken or not (plural or _bare(reading, previous, kinds)):
            return group
        if not heads_clause(reading, previous, is_said=True, elided=True):  # "south of the bath and both rooms are ..."
            return group
        group.insert(0, previous)


def _pronoun(reading: Reading, item: Item, index: int) -> bool:
    """Whether "it" stands between a room and `index`: nobody can say which room it is."""
    return any(reading.phrases[each].value in _PRONOUNS for each in range(item.last + 1, index))


def _is_part(reading: Reading, item: Item) -> bool:
    return item.last + 1 < len(reading.phrases) and reading.phrases[item.last + 1].value in _PARTS


def _bare(reading: Reading, item: Item, joints: set[str]) -> bool:
    """Whether a clause begins with this room and an "and": "kitchen and bath left of the living room"."""
    return "and" in joints and item.count is None and reading.kind(item.first - 1) in ("stop", "comma")


def _tokens(reading: Reading, first: int, last: int) -> range:
    """Tokens of the phrases `first` .. `last`."""
    return range(reading.phrases[first].first, reading.phrases[last].last + 1) if first <= last else range(0)


_TOPICS = frozenset(["은", "는", "이", "가", "도", "'", '"'])
"""Behind a Korean subject; a verb there would end its clause."""
_PLACES = frozenset(["에", "에는", "에서", "의", "로", "으로"])
"""Between a Korean direction and a subject behind it."""


def _relate_korean(reading: Reading, index: int) -> None:
    """Korean names the object just before the word: "안방은 거실 왼쪽에", "거실 왼쪽에 안방"."""
    item = reading.item_at(reading.skip(index - 1, -1))
    if item is None:
        return
    place = item.first - 1
    while reading.kind(place) == "filler" and reading.phrases[place].value in _TOPICS:
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
        _add(reading, index, [subject], [item], min(subject.first, item.first), last)


def _relate_group(reading: Reading, index: int) -> None:
    """ "a door between A and B", "connect A to B", "A and B are connected", and the same in Korean: just two rooms."""
    joints = ("filler", "and", "comma") if reading.kind(index) == "door-after" else ("filler", "and")
    step = 1 if reading.kind(index) == "between" else -1
    found: list[Item] = []
    place = index
    while True:
        following = reading.item_at(reading.skip(place + step, step, joints))
        if following is None:
            break
        found.append(following)
        place = following.last if step > 0 else following.first
    if len(found) == 2 and not (step < 0 and _is_longer_list(reading, found[-1])):
        last = max(index, *(item.last for item in found))
        _add(reading, index, found[::step][:1], found[::step][1:], min(index, *(item.first for item in found)), last)


def _is_longer_list(reading: Reading, first: Item) -> bool:
    """Whether more stands before the first of two rooms and is joined to them: "study, kitchen and bath are connected"."""
    place = reading.skip(first.first - 1, -1, ("filler", "and", "comma"))
    joints = {reading.kind(each) for each in range(place + 1, first.first)}
    item = reading.item_at(place)
    if item is None and reading.phrases[max(place, 0)].value.endswith(("와", "과", "랑", "하고")) and place >= 0:
        return True  # an unknown Korean word with its "and"
    if not joints & {"and", "comma"} or (item is None and reading.kind(place) != "other"):
        return False
    if item is not None:
        return not any(item in (*relation.subjects, *relation.objects) for relation in reading.relations)
    while reading.kind(place) in ("other", "filler"):
        if reading.phrases[place].value in _VERBS:  # "the study is large, kitchen and bath are connected"
            return False
        place -= 1
    return True


def _add(reading: Reading, index: int, subjects: list[Item], objects: list[Item], first: int, last: int) -> None:
    """Keep a relation unless a word between its rooms, or just behind them, makes it doubtful."""
    doubtful = any(reading.kind(place) in _DOUBT for place in (*range(first, last + 1), reading.skip(first - 1, -1)))
    doubtful |= reading.kind(reading.skip(last + 1, 1)) in ("not", "or")  # "... with no balcony" is another matter
    if doubtful or any(item.count == 0 or item.doubt for item in (*subjects, *objects)):
        return
    word = reading.phrases[index].value if reading.kind(index).startswith("direction") else ""
    reading.relations.append(Relation(word, subjects, objects, first, last))
    reading.used.add(index)
    for item in (*subjects, *objects):
        item.told = True


# ------------------------------------------------------------------------------------------------------ the result


def _counts(reading: Reading) -> dict[str, int]:
    """Rooms of each type that is named. Of several numbers for one type the largest holds, whatever ids stand elsewhere;
    "no" holds if nothing else is said.
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
"""A clause that would come to more sentences ("200 bedrooms left of 200 baths") is not understood."""


def _pairs(relation: Relation, counts: dict[str, int]) -> list[tuple[RoomId, RoomId]]:
    subjects = [room for item in relation.subjects for room in _rooms(item, counts)]
    objects = [room for item in relation.objects for room in _rooms(item, counts)]
    if len(subjects) * len(objects) > _MOST_PAIRS:
        return []
    return [(subject, other) for subject in subjects for other in objects if subject != other]


def _result(reading: Reading) -> Understood:
    counts = _counts(reading)
    said: list[tuple[int, str, str]] = []
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
            note = _note((*relation.subjects, *relation.objects), counts)
            said.append((relation.first, reading.words(relation.first, relation.last), " ".join(sentences) + note))
        else:
            reading.used.difference_update(range(relation.first, relation.last + 1))
    _tell_rooms(reading, counts, said)
    if not any(item.kind == "living room" for item in reading.items):
        counts = {"living room": 1, **counts}
        said.append((len(reading.phrases), "", "assumed: 1 living room, as every plan has one"))
    # Sections that the words say nothing about are left out: an empty one would say that there are none.
    spec = Spec("sjh", tuple(counts.items()) or None, tuple(connections.values()) or None, tuple(positions) or None)
    said.sort(key=lambda entry: entry[0])
    return Understood(spec, tuple((words, what) for _, words, what in said), _left_over(reading), _unknown(reading))


def _tell_rooms(reading: Reading, counts: dict[str, int], said: list[tuple[int, str, str]]) -> None:
    """Say what rooms outside relations came to; a "no" that another mention overrules is not understood."""
    for item in reading.items:
        if item.doubt:
            continue
        if item.count == 0 and counts[item.kind]:
            reading.used.difference_update(range(item.first, item.last + 1))
        elif not item.told or item.count is not None or item.first not in reading.used:
            what = (
                [str(room) for room in _rooms(item, counts)] if item.ids else [count_item(item.kind, counts[item.kind])]
            )
            said.append((item.first, reading.words(item.first, item.last), ", ".join(what)))
            reading.used.update(place for place in range(item.first, item.last + 1) if reading.kind(place) in _OF_ITEMS)


_OF_ITEMS = ("room", "number", "counted", "id", "ordinal", "none", "none-after", "all", "and", "or", "ensuite", "comma")


def _note(items: Sequence[Item], counts: dict[str, int]) -> str:
    """Which number was taken where the text leaves it open."""
    unclear = {item.kind for item in items if counts[item.kind] > 1 and not item.ids and not item.every}
    return "".join(f" (of {counts[kind]}, {kind} #1 is taken)" for kind in sorted(unclear))


def _left_over(reading: Reading) -> tuple[str, ...]:
    """The words that came to nothing, verbatim."""
    return tuple(reading.words(first, last) for first, last in _runs(reading))


def _unknown(reading: Reading) -> tuple[tuple[str, int], ...]:
    """Runs cut where a relation or another phrase begins, so that "study" is one however it is related."""
    found: Counter[str] = Counter()
    for first, last in _runs(reading):
        pieces: list[list[int]] = []
        for index in range(first, last + 1):
            kind = reading.kind(index)
            if kind in ("filler", "and", "who") and index > first:
                kind = ""
            elif kind in (
                "other",
                "number",
                "counted",
                "id",
                "ordinal",
                "none",
                "doubt",
                "or",
                "not",
                "all",
                "unit",
                "room",
            ):
                kind = "words"
            if not kind:
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


_RELATING = (
    "direction", "direction-after", "door", "doors", "door-after", "between", "near", "ensuite",
)  # fmt: skip


def _runs(reading: Reading) -> list[list[int]]:
    """First and last phrases of runs that came to nothing; fillers inside a run stay with it."""
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
