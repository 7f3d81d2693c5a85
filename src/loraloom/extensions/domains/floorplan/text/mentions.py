"""Find the rooms that free text mentions, and for each its count, its number, or that there is none.

In: free text. Out: a `Reading`: its phrases and the rooms among them, en-suites with their door; `words.py` reads the
relations and builds the spec.
"""

from typing import Literal

from .negations import find_negations
from .phrases import EXCHANGED, number_of, phrases_of, tokens_of
from .reading import Item, Reading, Relation


def read(text: str) -> Reading:
    """The text with its rooms found."""
    tokens = tokens_of(text)
    reading = Reading(text, tokens, phrases_of(tokens))
    _find_items(reading)
    find_negations(reading)
    _find_doubts(reading)
    _find_ensuites(reading)
    return reading


def _find_items(reading: Reading) -> None:
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind == "room":
            item = Item(kind=phrase.value, first=index, last=index)
            _look_before(reading, item)
            _look_behind(reading, item)
            reading.items.append(item)
            reading.used.update(
                place
                for place in range(item.first, item.last + 1)
                if reading.kind(place) not in ("other", "near", "direction", "door")
            )


def _look_before(reading: Reading, item: Item) -> None:
    """Number or ordinal before a room, across at most two other words ("2 large bedrooms")."""
    taken = reading.items[-1].last if reading.items else -1
    place, others = item.first - 1, 0
    is_apart = False
    while place > taken and (
        _is_article(reading, place) or (reading.kind(place) == "other" and others < 2 and not is_apart)
    ):
        others += reading.kind(place) == "other"
        is_apart |= reading.phrases[place].value in (
            "the",
            "of",
        )  # "two studies facing the bath": two of something else
        place -= 1
    kind = reading.kind(place)
    if place > taken and kind in ("number", "counted", "ordinal", "all"):
        number = reading.phrases[place].value
        item.first = place
        if kind in ("number", "counted"):
            item.count = number_of(number)
            item.every = item.count > 1
        elif kind == "ordinal" and int(number) > 0:
            item.ids = (int(number),)
        elif kind == "all":
            item.every = True
    word = reading.tokens[reading.phrases[item.last].last].text
    if word.endswith("s") and word != "wcs" and item.count is None and not item.ids:
        item.every = True


def _look_behind(reading: Reading, item: Item) -> None:
    """An id ("bedroom #2", "bedrooms 1 and 2") or a count ("bedrooms: 2", "침실 두 개") after a room."""
    place = reading.skip(item.last + 1, 1) if reading.kind(item.last + 1) == "filler" else item.last + 1
    kind = reading.kind(place)
    is_sign = item.last + 1 < len(reading.phrases) and reading.phrases[item.last + 1].value in (":", "=", "x")
    if item.count is None and not item.ids and kind == "counted":
        item.last = place
        item.count = number_of(reading.phrases[place].value)
        item.every = item.count > 1
        return
    if is_sign and reading.kind(item.last + 2) == "number":
        if reading.kind(item.last + 3) in ("comma", "stop", "and") and item.count is None:
            item.last, item.count = item.last + 2, number_of(reading.phrases[item.last + 2].value)
            item.every = item.count > 1
        return
    ids: list[int] = []
    place = item.last + 1
    while item.count is None and not item.ids and reading.kind(place) in ("id", "number"):
        number = number_of(reading.phrases[place].value)
        if number < 1 or (
            reading.kind(place) == "number" and reading.kind(reading.skip(place + 1, 1, ("other",))) == "room"
        ):
            break  # "1 kitchen 2 bedrooms": the number is the next room's
        ids.append(number)
        item.last = place
        place += 2 if item.every and reading.kind(place + 1) == "and" else 1
        if reading.kind(place - 1) != "and":
            break
    if ids:
        item.ids, item.every = tuple(ids), False


# --------------------------------------------------------------------------------------------------------- doubts


def _find_doubts(reading: Reading) -> None:
    """Leave rooms unread whose number or existence is doubtful, and with them all mentions of a type without plain
    number."""
    for before, item in zip((None, *reading.items), reading.items, strict=False):
        found = _doubt_before(reading, item, before.last if before else -1) or _doubt_behind(reading, item)
        inside = range(item.first, item.last + 1)
        if any(_is_unread_number(reading, place) or reading.phrases[place].value == "+" for place in inside):
            found = "number"
        item.doubt = item.doubt or found
    _doubt_alternatives(reading)
    plain = {item.kind for item in reading.items if item.count and not item.doubt}
    reading.unsure = {item.kind for item in reading.items if item.doubt == "number"} - plain
    for item in reading.items:
        if item.kind in reading.unsure:
            item.doubt = "number"
        if item.doubt:
            reading.used.difference_update(range(item.first, item.last + 1))


def _doubtful(item: Item) -> Literal["number", "room"]:
    return "room" if item.count is None and not item.every else "number"


_ARTICLES = frozenset(["of", "the", "x", "*", "=", "+", "의", "개", "'", '"', "\u2018", "\u2019", "\u201c", "\u201d"])
"""Fillers that may stand between a number and its room."""


def _is_article(reading: Reading, place: int) -> bool:
    return reading.kind(place) == "filler" and reading.phrases[place].value in _ARTICLES


def _is_unread_number(reading: Reading, place: int) -> bool:
    """Whether a token is a number that is no plain count: 1.5, 1000, a half sign."""
    return reading.kind(place) == "other" and any(sign.isnumeric() for sign in reading.phrases[place].value)


def _is_number(reading: Reading, place: int) -> bool:
    return reading.kind(place) in ("number", "counted") or _is_unread_number(reading, place)


def _doubt_before(reading: Reading, item: Item, taken: int) -> Literal["", "number", "room"]:
    """The words between the previous room and this one's number that make it doubtful: "not", "about", another
    number."""
    place, is_near, is_next, is_apart = item.first - 1, True, True, False
    while place > taken and not _is_unread_number(reading, place) and reading.kind(place) in ("filler", "other"):
        is_filler = reading.kind(place) == "filler"
        is_near &= (
            (item.count is None) if not is_filler else reading.phrases[place].value in (*_ARTICLES, "a", "an", "to")
        )
        is_next &= not is_filler
        is_near &= is_filler or not is_apart
        is_apart |= reading.phrases[place].value == "the"  # "two studies facing the bath": two of something else
        place -= 1
    if place <= taken:
        return ""
    kind, word = reading.kind(place), reading.phrases[place].value
    if kind in ("not", "not-after") and word not in EXCHANGED:
        return _doubtful(item)
    if not is_near:
        return ""
    if kind in ("and", "or", "comma", "near", "ensuite"):
        return "number" if _is_range(reading, item, place, taken) else ""
    if kind == "direction" and item.count is not None and word in ("above", "below"):  # "over two bedrooms"
        is_all = reading.kind(reading.skip(place - 1, -1)) == reading.kind(reading.skip(item.last + 1, 1)) == "stop"
        return "number" if is_all and reading.words(place, place).lower() in ("over", "under", "above", "below") else ""
    if kind == "unit":
        return "number" if is_next and item.count is None else ""
    if (
        kind == "doubt"
        and item.count is None
        and word.endswith(("larger than", "greater than", "less than", "more than"))
    ):
        return ""  # "larger than the bath" says nothing of how many there are
    if kind == "doubt" and (item.count is not None or word not in ("about", "around", "any")):
        return "number"
    return "number" if _is_number(reading, place) or kind == "id" or (kind == "none" and item.count) else ""


def _is_range(reading: Reading, item: Item, place: int, taken: int) -> bool:
    """Whether the joint before a room's number joins it to another number: "two or three", "2/3", "3 en-suite"."""
    kind = reading.kind(place)
    if kind not in ("or", "ensuite") and not _is_number(reading, item.first):
        return False
    end = reading.skip(place - 1, -1, ("filler", "comma", "and", "or", "not", "doubt"))
    if kind in ("and", "or") and any(reading.kind(each) == "doubt" for each in range(max(end, taken) + 1, place)):
        return True  # "a hundred and two"
    if end <= taken or not _is_number(reading, end):
        return False
    if kind != "comma":
        return True
    of_before = reading.skip(end, -1, ("number", "counted", "filler", "or", "doubt"))
    if taken >= 0 and (of_before == taken or (of_before == taken + 1 and reading.phrases[of_before].value == ":")):
        return False  # "bedrooms: 2-3, one kitchen"
    return reading.kind(end - 1) not in ("other", "unit", "direction", "direction-after")


def _doubt_behind(reading: Reading, item: Item) -> Literal["", "number", "room"]:
    """The words after a room and its number that make it doubtful: "at least", "or three", "is not needed", an area."""
    place = reading.skip(item.last + 1, 1)
    sign = item.last + 1 < len(reading.phrases) and reading.phrases[item.last + 1].value in (":", "=", "x")
    if sign and item.count is None:
        value = reading.skip(item.last + 2, 1)
        if _is_number(reading, value) or reading.kind(value) == "doubt":
            return "number"
    kind = reading.kind(place)
    if kind == "not-after":
        return _doubtful(item)
    if _is_refused(reading, item):
        return _doubtful(item)
    if kind == "unit" and item.ids:
        return "number"
    if _is_number(reading, place) and place > item.last + 1 and reading.kind(place + 1) == "other":
        return ""  # "beside the kitchen are two studies": two of something else
    if (_is_number(reading, place) or kind == "doubt") and not _is_of_next(reading, place):
        return "number"
    end = reading.skip(place, 1, ("filler", "comma", "or", "not", "doubt"))
    said = {reading.kind(each) for each in range(place, end)} & {"or", "not", "doubt"}
    return "number" if said and _is_number(reading, end) and not _is_of_next(reading, end) else ""


def _is_refused(reading: Reading, item: Item) -> bool:
    """Whether "is not needed" or "if possible" ends the clause of a room, or ", maybe more" follows it."""
    place = reading.skip(item.last + 1, 1, ("filler", "other"))
    if reading.kind(place) == "comma":
        place = reading.skip(place, 1, ("filler", "comma"))
        if reading.kind(place) != "not" or reading.phrases[place].value not in ("if", "maybe", "perhaps"):
            return False
    end = reading.skip(place + 1, 1, ("filler", "other", "doubt"))
    return reading.kind(place) == "not" and reading.kind(end) in ("stop", "comma", "and")


def _is_of_next(reading: Reading, place: int) -> bool:
    """Whether a number belongs to a room after it."""
    if reading.kind(place) == "counted":
        return False
    kinds = ("filler", "other", "number", "doubt", "or", "not", "unit", "ensuite")
    return reading.kind(reading.skip(place, 1, kinds)) == "room"


def _doubt_alternatives(reading: Reading) -> None:
    """ "A or B", "A, B or C": none of them is read, unless both words name the same type."""
    items = reading.items
    for index in range(1, len(items)):
        before, item = items[index - 1], items[index]
        same = (before.kind, before.count, before.ids) == (item.kind, item.count, item.ids)
        if same or "or" not in _joints(reading, before, item):
            continue
        item.doubt = item.doubt or _doubtful(item)
        while True:
            before.doubt = before.doubt or _doubtful(before)
            index -= 1
            if index < 1 or _joints(reading, items[index - 1], before) != {"comma"}:
                break
            before = items[index - 1]
            if reading.kind(reading.skip(before.first - 1, -1)) in ("direction", "door", "near"):
                break


def _joints(reading: Reading, before: Item, item: Item) -> set[str]:
    """The joint between two rooms; empty when other words are between them."""
    kinds = {reading.kind(place) for place in range(before.last + 1, item.first)}
    return kinds - {"filler"} if kinds <= {"or", "comma", "filler"} else set()


def _find_ensuites(reading: Reading) -> None:
    """An en-suite is a bathroom with a door to the bedroom named just before it in its clause, else the master room."""
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind != "ensuite":
            continue
        before = reading.skip(index - 1, -1)
        owner = reading.item_at(before)
        if reading.kind(before) in ("none", "not", "or", "doubt", "other") or _is_number(reading, before):
            continue  # "other": the study's en-suite belongs to no room of the vocabulary
        if owner is not None and (owner.count == 0 or owner.doubt):
            continue
        if (
            phrase.value.startswith(("master", "primary"))
            or owner is None
            or owner.kind not in ("master room", "bedroom")
            or owner.every
        ):
            owner = Item(kind="master room", first=index, last=index)
        if reading.unsure & {"bathroom", owner.kind}:
            continue
        bath = Item(kind="bathroom", first=index, last=index, stated=True)
        reading.items += [bath] if owner in reading.items else [bath, owner]
        first = min(index, owner.first)
        reading.relations.append(Relation(word="", subjects=[bath], objects=[owner], first=first, last=index))
        owner.stated = True
        reading.used.add(index)
