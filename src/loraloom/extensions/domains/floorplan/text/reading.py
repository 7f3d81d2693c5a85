"""The state of reading one free text: its phrases, the rooms among them, their relations, and what was understood.

`mentions.py` finds the rooms, `negations.py` those that are refused, `words.py` the relations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .phrases import Phrase, Token


@dataclass(slots=True, kw_only=True)
class Item:
    """A room, or some rooms of a type, as mentioned.

    Attributes:
        kind: Type of room.
        first, last: Indices of its phrases, both inclusive.
        count: The number that the text gives, 0 for "no"; None for a mention without number.
        ids: Numbers by which the text names it.
        every: Whether all rooms of the type are meant: a plural, "both".
        stated: Whether the clause of a relation already states it.
        doubt: Why it is not read: `number` when its number is not plain, `room` when its existence is not certain;
            empty when it is read.
    """

    kind: str
    first: int
    last: int
    count: int | None = None
    ids: tuple[int, ...] = ()
    every: bool = False
    stated: bool = False
    doubt: Literal["", "number", "room"] = ""


@dataclass(slots=True, kw_only=True)
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
    """The state of reading one text."""

    text: str
    tokens: list[Token]
    phrases: list[Phrase]
    items: list[Item] = field(default_factory=list[Item])
    relations: list[Relation] = field(default_factory=list[Relation])
    used: set[int] = field(default_factory=set[int])
    """Indices of the phrases that were understood."""
    uncertain: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """First and last phrases of enumerations whose members are not certain."""
    unsure: set[str] = field(default_factory=set[str])
    """Types for which the text gives only doubtful numbers; no mention of them is read."""

    def kind(self, index: int) -> str:
        """A phrase's kind; `stop` beyond both ends."""
        return self.phrases[index].kind if 0 <= index < len(self.phrases) else "stop"

    def words(self, first: int, last: int) -> str:
        """The text of the phrases `first` .. `last`, verbatim."""
        return self.text[self.tokens[self.phrases[first].first].start : self.tokens[self.phrases[last].last].end]

    def item_at(self, index: int) -> Item | None:
        """The room that a phrase belongs to."""
        return next((item for item in self.items if item.first <= index <= item.last), None)

    def skip(self, index: int, step: int, kinds: Iterable[str] = ("filler",)) -> int:
        """The first place from `index` on whose phrase has none of the kinds."""
        while self.kind(index) in kinds and 0 <= index < len(self.phrases):
            index += step
        return index
