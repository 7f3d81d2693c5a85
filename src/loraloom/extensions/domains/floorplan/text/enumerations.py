"""Enumerations of rooms on both sides of a relation, with members that the vocabulary does not know.

In: a `Reading` and the phrase of a relation. Out: the known rooms of the enumeration before it or after it. "living
room connected to the kitchen, the study and the bathroom" has two known objects, and the study between them breaks
nothing. Where it is not certain who belongs to an enumeration, the result is empty and the whole phrase is in
`Reading.uncertain`.
"""

from dataclasses import dataclass

from .clauses import PARTS, PRONOUNS, VERBS, heads_clause, is_determiner
from .phrases import HYPHENS, PLURAL_VERBS
from .reading import Item, Reading

_MOST_WORDS = 3
"""Words of an unknown room: "walk-in wardrobe"."""
_NUMBERS = ("number", "counted", "ordinal", "id")
_BUILDINGS = frozenset(["home", "house", "flat", "apartment", "floor"])
"""Fillers that begin the name of a room: "home office"."""
_HAVING = VERBS | frozenset(
    [
        "be",
        "with",
        "there",
        "containing",
        "contains",
        "contain",
        "includes",
        "include",
        "including",
        "consists",
        "comprising",
        "featuring",
        "want",
        "need",
        "like",
        "draw",
        "make",
        "put",
        "place",
        "show",
        "add",
        "give",
    ]
)
"""Before a room: it is the object of another clause. "There is a bath, the kitchen and the bedroom are ..."."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an enumeration.

    Attributes:
        first, last: Indices of its phrases, both inclusive, with its article and its adjectives.
        item: The room; None where the vocabulary does not contain it.
    """

    first: int
    last: int
    item: Item | None


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a relation: the known rooms, whether the first member is known, and the last phrase."""

    items: list[Item]
    is_first_known: bool
    last: int


def objects_of(reading: Reading, index: int) -> Objects:
    """The rooms after a relation: the first, and those that an "and" joins to it; for doors also a list with commas."""
    nothing = Objects([], False, index)
    members, joints = _listed_behind(reading, index)
    if not members or (members[0].item and _is_part(reading, members[0].item)):
        return nothing
    is_door = reading.kind(index) == "door"
    is_said = is_door or _value(reading, reading.skip(index - 1, -1, ("other",))) in VERBS
    open_end = _open_number(joints, is_door=is_door, is_said=is_said)
    if open_end:
        reading.uncertain.append((index, members[open_end].last))
        return nothing
    length = next((place for place, joint in enumerate(joints) if "number" in joint), len(joints))
    if is_door and "and number" in joints[length : length + 1]:
        joints = ["and" if joint == "and number" else joint for joint in joints]
        length = next((place for place, joint in enumerate(joints) if "number" in joint), len(joints))
    members, joints = members[: length + 1], joints[:length]
    if len(members) > 1 and reading.kind(members[-1].last + 1) == "or":  # "the kitchen, the study or the bath"
        reading.uncertain.append((index, members[-1].last + 1))
        return nothing
    behind = reading.kind(reading.skip(members[-1].last + 1, 1, ("filler", "not", "all")))
    is_cut = len(members) > 1 and behind not in ("stop", "comma", "and")
    if is_cut:  # the list's end is the subject of what follows
        members, joints = members[:-1], joints[:-1]
    definite = all(_is_definite(reading, member) for member in members)
    if "and" in joints and (is_door or (is_said and all(_may_be_definite(reading, member) for member in members))):
        length = len(joints) - joints[::-1].index("and") + 1  # "connected to the kitchen, bath and balcony"
    else:
        length = 1 + next((number for number, joint in enumerate(joints) if joint != "and"), len(joints))
        is_open = definite and (is_cut or is_said)
        is_open |= is_door and length < len(members) and _shares_article(reading, members[0], members[length])
        if is_open and length < len(members) and "and" not in joints:
            reading.uncertain.append((index, members[-1].last))
            return nothing
    chosen = members[:length]
    return Objects([member.item for member in chosen if member.item], chosen[0].item is not None, chosen[-1].last)


def _open_number(joints: list[str], *, is_door: bool, is_said: bool) -> int:
    """Index of the last member of an enumeration of which it is not certain whether its numbered rooms belong to the
    relation, else 0: "the kitchen, two bathrooms and a balcony", "is left of the kitchen and two bathrooms".
    """
    first = next((place for place, joint in enumerate(joints) if "number" in joint), None)
    if first is None or (joints[first] != "and number" and "and" in joints[:first]):
        return 0
    if joints[first] == "and number":
        return 0 if is_door or not is_said else first + 1
    closing = next((place for place in range(first, len(joints)) if joints[place].startswith("and")), None)
    return 1 + closing if is_door and closing is not None else 0


def _shares_article(reading: Reading, first: Member, second: Member) -> bool:
    """Whether a comma may join two members: "the kitchen, bath"; "the kitchen, a bath" are two wishes."""
    words = [_value(reading, each.first) if is_determiner(reading, each.first) else "" for each in (first, second)]
    return words[1] in ("", words[0])


def _listed_behind(reading: Reading, index: int) -> tuple[list[Member], list[str]]:
    """All members from a relation on, and the joints between them: "and", "comma", and before a number "and number" (no
    comma), "comma number", "and comma number".
    """
    first = member_behind(reading, index + 1, adjectives=2)
    if first is None:
        return [], []
    members, joints = [first], list[str]()
    own = reading.words(index, index).lower().split()[-1]
    while True:
        place = members[-1].last + 1
        joint = reading.skip(place, 1, ("comma", "and"))
        start = joint  # "connected to the kitchen and to the bath"
        while reading.kind(start) == "filler" and not is_determiner(reading, start):
            if _value(reading, start) in _HAVING and _value(reading, start) != own:
                break
            start += 1
        following = member_behind(reading, start) if joint > place else None
        if following is None or (following.item and following.item.count == 0):
            return members, joints
        kinds = {reading.kind(each) for each in range(place, joint)}
        has_number = following.item is not None and following.item.count is not None
        if has_number:
            joints.append(" ".join([*sorted(kinds - {"filler"}), "number"]))
        else:
            joints.append("and" if "and" in kinds else "comma")
        members.append(following)


def listed_behind(reading: Reading, place: int) -> list[Member]:
    """The enumeration that begins at a phrase: commas, then "and" until its end."""
    members, joints = list[Member](), ["and"]
    while member := member_behind(reading, place, adjectives=2):
        members.append(member)
        place = reading.skip(member.last + 1, 1, ("comma", "and"))
        kinds = {reading.kind(each) for each in range(member.last + 1, place)}
        if not kinds or ("and" in joints[1:] and "and" not in kinds):
            break
        joints.append("and" if "and" in kinds else "comma")
    return members if "and" in joints[1:] else members[:1]


def listed_before(reading: Reading, place: int) -> list[Member]:
    """The enumeration that ends at a phrase, in the order of the text: "A, B and C" before "are connected"."""
    taken = {id(each) for relation in reading.relations for each in (*relation.objects, *relation.subjects)}
    members: list[Member] = []
    while member := member_before(reading, place):
        is_clause = member.item is None and _has_verb_before(reading, member.first)
        is_other = member.item is not None and id(member.item) in taken
        if members and (is_clause or is_other or _value(reading, member.first - 1) in _HAVING):
            break
        members.insert(0, member)
        end = reading.skip(member.first - 1, -1) if reading.kind(member.first - 1) == "filler" else member.first - 1
        if _value(reading, member.first - 1) in TOPICS:
            break
        place = reading.skip(end, -1, ("comma", "and"))
        if place == end and not _ends_with(reading, member_before(reading, place), AND_WORDS):
            break
    return members


def _has_verb_before(reading: Reading, place: int) -> bool:
    """Whether an unknown word begins a clause of its own: "the study is large, the kitchen and the bath are ..."."""
    place -= 1
    while reading.kind(place) in ("other", "filler"):
        if _value(reading, place) in VERBS:
            return True
        place -= 1
    return False


def _ends_with(reading: Reading, member: Member | None, endings: tuple[str, ...]) -> bool:
    """Whether an unknown Korean word ends with a particle that the table cannot separate."""
    return member is not None and member.item is None and _value(reading, member.last).endswith(endings)


AND_WORDS = ("와", "과", "랑", "하고")
TOPIC_ENDS = ("은", "는", "이", "가")
TOPICS = frozenset(["은", "는", "이", "가", "도", "'", '"'])
"""Particles after a Korean subject; a verb there would end its clause."""


def member_behind(reading: Reading, place: int, adjectives: int = 0) -> Member | None:
    """The member that begins at a phrase; without an article a room has at most `adjectives` adjectives."""
    first = place
    while is_determiner(reading, place):
        place += 1
    most = 2 if place > first else adjectives
    item = reading.item_at(place)
    if item is None and reading.kind(place) in _NUMBERS:
        place += 1
    start = place
    while item is None and is_word(reading, place) and place - start < _MOST_WORDS:
        place += 1
        item = reading.item_at(place) if place - start <= most else None
    if item is not None:
        if place == start or not _is_part(reading, item):
            return Member(first, item.last, item)
        return None
    ends = start > first or reading.kind(place) in ("stop", "comma", "and")
    return Member(first, place - 1, None) if place > start and ends else None


def member_before(reading: Reading, place: int) -> Member | None:
    """The member that ends at a phrase."""
    item = reading.item_at(place)
    first = place + 1 if item is None else item.first
    words = 0
    while is_word(reading, first - 1) and words < _MOST_WORDS:
        if first - 1 != place and _value(reading, first - 1).endswith((*AND_WORDS, *TOPIC_ENDS)):
            break  # another Korean room, not an adjective of this one
        first, words = first - 1, words + 1
    if item is None and not words:
        return None
    if item is None and reading.kind(first - 1) in _NUMBERS and reading.item_at(first - 1) is None:
        first -= 1
    while is_determiner(reading, first - 1):
        first -= 1
    return Member(first, place if item is None else item.last, item)


def subjects_of(reading: Reading, index: int) -> list[Item]:
    """The rooms before a relation."""
    place = reading.skip(index - 1, -1, ("filler", "who"))
    if reading.kind(place) == "all" and _value(reading, place - 1) in VERBS:  # "are all above"
        place = reading.skip(place - 1, -1, ("filler", "who"))
    joint = reading.skip(place, -1, ("filler", "comma", "and", "who"))
    item = reading.item_at(joint)
    if item is None:
        return _with_unknown_end(reading, index, place) if joint == place else []
    if is_pronoun_between(reading, item, index):
        return []
    said_who = any(reading.kind(each) == "who" for each in range(item.last + 1, index))
    last = next((relation for relation in reversed(reading.relations) if item in relation.objects), None)
    if said_who:
        if not item.every and item.count is None and _is_plural(reading, item.last + 1, index):
            reading.uncertain.append(
                (item.first, reading.skip(index + 1, 1))
            )  # "the study and the bath, which are ..."
            return []
        return [item] if item.count != 0 else []
    if last is not None:
        return last.subjects if joint != place else []  # "left of the kitchen, below the bath": the subject is the same
    is_said = any(_value(reading, each) in VERBS for each in range(item.last + 1, index))
    if item.count == 0 or not heads_clause(reading, item, is_said=is_said, elided=joint != place):
        return []
    if joint != place:
        return [item]
    own = member_before(reading, item.last)
    return _joined_before(reading, index, own, is_said) if own is not None else [item]


def _with_unknown_end(reading: Reading, index: int, place: int) -> list[Item]:
    """ "the bedroom and the study are left of ...": after one unknown room the verb's plural says that both are
    meant."""
    unknown = member_before(reading, place)
    if unknown is None or not _is_plural(reading, place + 1, index):
        return []
    word = reading.words(place, place).lower()
    if word.endswith("s") or any(reading.kind(each) in _NUMBERS for each in range(unknown.first, place + 1)):
        return []
    return _joined_before(reading, index, unknown, is_said=True)


def _joined_before(reading: Reading, index: int, own: Member, is_said: bool) -> list[Item]:
    """A relation's last subject with those that an enumeration joins to it from the left."""
    plural = _is_plural(reading, own.last + 1, index)
    is_listed = plural and (own.item is None or not own.item.every)  # one room and "are": more rooms are meant
    taken = {id(each) for relation in reading.relations for each in (*relation.objects, *relation.subjects)}
    group, rooms = [own], [own.item] if own.item else []
    while True:
        end = reading.skip(group[0].first - 1, -1)
        start = reading.skip(end, -1, ("comma", "and"))
        kinds = {reading.kind(each) for each in range(start + 1, end + 1)}
        previous = member_before(reading, reading.skip(start, -1)) if kinds else None
        if reading.kind(end) == "or" and (before := member_before(reading, end - 1)) and before.item is None:
            reading.uncertain.append((before.first, reading.skip(index + 1, 1)))
            return []
        joined = "and" in kinds or ((len(group) > 1 or is_listed) and bool(kinds))
        if previous is None or not joined:
            return rooms
        item = previous.item
        if item is None and reading.kind(previous.first - 1) not in ("stop", "comma", "and"):
            return rooms  # "is sunny, and the kitchen ..."
        if item is not None and (id(item) in taken or _value(reading, previous.first - 1) in _HAVING):
            return rooms
        if not plural and not is_said and _is_open(reading, previous, group, kinds):
            reading.uncertain.append((previous.first, reading.skip(index + 1, 1)))
            return []
        if not (plural or _is_bare(reading, previous, kinds)):
            return rooms
        if item is not None and not heads_clause(reading, item, is_said=True, elided=True):
            return rooms  # "south of the bath and both rooms are ..."
        group.insert(0, previous)
        rooms = [item, *rooms] if item is not None else rooms


def _is_open(reading: Reading, previous: Member, group: list[Member], joints: set[str]) -> bool:
    """Whether, without a verb, nobody can say if a member belongs to what follows: "kitchen, bath and bedroom left of
    ...", "the kitchen and the bath left of ..."."""
    if previous.item is not None and previous.item.count is not None:
        return False
    if "and" in joints:
        return len(group) == 1 and _is_definite(reading, previous) and _is_definite(reading, group[0])
    return all(not is_determiner(reading, member.first) for member in (previous, *group))


def _is_bare(reading: Reading, member: Member, joints: set[str]) -> bool:
    """Whether a clause begins with this member and an "and": "kitchen and bath left of the living room"."""
    has_number = member.item is not None and member.item.count is not None
    is_first = reading.kind(member.first - 1) in ("stop", "comma") and not is_determiner(reading, member.first)
    return "and" in joints and not has_number and is_first


def _is_plural(reading: Reading, first: int, last: int) -> bool:
    if first > last:
        return False
    tokens = range(reading.phrases[first].first, reading.phrases[last].last + 1)
    return any(reading.tokens[token].text in PLURAL_VERBS for token in tokens)


def is_pronoun_between(reading: Reading, item: Item, index: int) -> bool:
    """Whether "it" is between a room and `index`: the room that it means is not certain."""
    return any(_value(reading, each) in PRONOUNS for each in range(item.last + 1, index))


def _is_part(reading: Reading, item: Item) -> bool:
    return _value(reading, item.last + 1) in PARTS


def _is_definite(reading: Reading, member: Member) -> bool:
    return _value(reading, member.first) == "the"


def _may_be_definite(reading: Reading, member: Member) -> bool:
    """Whether a member has "the" or shares the one before it: "the balcony, study and bathroom"."""
    return _is_definite(reading, member) or not is_determiner(reading, member.first)


def is_word(reading: Reading, place: int) -> bool:
    """Whether a phrase may be a word of an unknown room: "walk-in wardrobe", "home cinema", but no verb."""
    if reading.kind(place) != "filler":
        return reading.kind(place) == "other" and reading.phrases[place].value not in VERBS
    phrase = reading.phrases[place]
    before, behind = reading.tokens[phrase.first].start - 1, reading.tokens[phrase.last].end
    is_hyphenated = reading.text[max(before, 0)] in HYPHENS or reading.text[behind : behind + 1] in (*HYPHENS,)
    return is_hyphenated or (phrase.value in _BUILDINGS and reading.kind(place + 1) == "other")


def _value(reading: Reading, place: int) -> str:
    return reading.phrases[place].value if 0 <= place < len(reading.phrases) else ""
