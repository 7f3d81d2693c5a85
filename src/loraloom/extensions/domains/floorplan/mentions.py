"""Which rooms free text mentions, and how: how many, which number, none.

In: free text. Out: a `Reading`: its phrases and the rooms among them, en-suites with their door; `words.py` relates the
rooms and sums up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .phrases import Phrase, Token, number_of, phrases_of, tokens_of


@dataclass(slots=True)
class Item:
    """A room or some of a type, as mentioned.

    Attributes:
        kind: Type of room.
        first, last: Its phrases, both inclusive.
        count: The number that stands with it, 0 for "no"; None for a mere mention.
        ids: The numbers that it is called by.
        every: All rooms of the type are meant: a plural, "both".
        told: A relation's clause says it already.
    """

    kind: str
    first: int
    last: int
    count: int | None = None
    ids: tuple[int, ...] = ()
    every: bool = False
    told: bool = False


@dataclass(slots=True)
class Relation:
    """Every subject stands in the relation to every object; the clause is the phrases `first` .. `last`."""

    word: str
    """A direction, or empty for a door."""
    subjects: list[Item]
    objects: list[Item]
    first: int
    last: int


@dataclass(slots=True)
class Reading:
    """One text while it is read."""

    text: str
    tokens: list[Token]
    phrases: list[Phrase]
    items: list[Item] = field(default_factory=list[Item])
    relations: list[Relation] = field(default_factory=list[Relation])
    used: set[int] = field(default_factory=set[int])
    """Phrases that came to something."""

    def kind(self, index: int) -> str:
        """A phrase's kind; beyond both ends a sentence stops."""
        return self.phrases[index].kind if 0 <= index < len(self.phrases) else "stop"

    def words(self, first: int, last: int) -> str:
        """The text of the phrases `first` .. `last`, verbatim."""
        return self.text[self.tokens[self.phrases[first].first].start : self.tokens[self.phrases[last].last].end]

    def item_at(self, index: int) -> Item | None:
        """The room that a phrase belongs to."""
        return next((item for item in self.items if item.first <= index <= item.last), None)

    def skip(self, index: int, step: int, kinds: Iterable[str] = ("filler",)) -> int:
        """The first place from `index` on whose phrase is none of the kinds."""
        while self.kind(index) in kinds and 0 <= index < len(self.phrases):
            index += step
        return index


def read(text: str) -> Reading:
    """The text with its rooms found."""
    tokens = tokens_of(text)
    reading = Reading(text, tokens, phrases_of(tokens))
    _find_items(reading)
    _find_ensuites(reading)
    return reading


def _find_items(reading: Reading) -> None:
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind == "room":
            item = Item(phrase.value, index, index)
            _look_before(reading, item)
            _look_behind(reading, item)
            reading.items.append(item)
            reading.used.update(
                place
                for place in range(item.first, item.last + 1)
                if reading.kind(place) not in ("other", "near", "direction", "door")
            )


def _look_before(reading: Reading, item: Item) -> None:
    """Number, ordinal or "no" in front, across at most two other words ("2 large bedrooms")."""
    taken = reading.items[-1].last if reading.items else -1
    place, others = item.first - 1, 0
    while place > taken and (reading.kind(place) == "filler" or (reading.kind(place) == "other" and others < 2)):
        others += reading.kind(place) == "other"
        place -= 1
    kind = reading.kind(place)
    if place > taken and kind in ("number", "counted", "ordinal", "none", "all"):
        number = reading.phrases[place].value
        item.first = place
        if kind in ("number", "counted"):
            item.count = number_of(number)
            item.every = item.count > 1
        elif kind == "ordinal" and int(number) > 0:
            item.ids = (int(number),)
        elif kind == "none":
            item.count = 0
        elif kind == "all":
            item.every = True
    elif kind == "or" and reading.items and reading.items[-1].count == 0 and reading.items[-1].last == place - 1:
        item.first, item.count = place, 0  # "no balcony or storage"
    word = reading.tokens[reading.phrases[item.last].last].text
    if word.endswith("s") and word != "wcs" and item.count is None and not item.ids:
        item.every = True


def _look_behind(reading: Reading, item: Item) -> None:
    """An id ("bedroom #2", "bedrooms 1 and 2") or a count ("bedrooms: 2", "침실 두 개", "no" in Korean) behind."""
    place = reading.skip(item.last + 1, 1) if reading.kind(item.last + 1) == "filler" else item.last + 1
    kind = reading.kind(place)
    is_sign = item.last + 1 < len(reading.phrases) and reading.phrases[item.last + 1].value in (":", "=", "x")
    if item.count is None and not item.ids and kind in ("counted", "none-after"):
        item.last = place
        item.count = number_of(reading.phrases[place].value) if kind == "counted" else 0
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


def _find_ensuites(reading: Reading) -> None:
    """An en-suite is a bathroom with a door to the bedroom named just before it in its clause, else the master room."""
    for index, phrase in enumerate(reading.phrases):
        if phrase.kind != "ensuite":
            continue
        before = reading.skip(index - 1, -1)
        owner = reading.item_at(before)
        if reading.kind(before) in ("none", "not", "or") or (owner is not None and owner.count == 0):
            continue
        if (
            phrase.value.startswith(("master", "primary"))
            or owner is None
            or owner.kind not in ("master room", "bedroom")
            or owner.every
        ):
            owner = Item("master room", index, index)
        bath = Item("bathroom", index, index, told=True)
        reading.items += [bath] if owner in reading.items else [bath, owner]
        first = min(index, owner.first)
        reading.relations.append(Relation("", [bath], [owner], first, index))
        owner.told = True
        reading.used.add(index)
