"""One free text while it is read: its phrases, the rooms among them, their relations, and what was understood.

`mentions.py` finds the rooms, `negations.py` those that are refused, `words.py` the relations.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .phrases import Phrase, Token


@dataclass(slots=True, kw_only=True)
class Item:
    """A room or some of a type, as mentioned.

    Attributes:
        kind: Type of room.
        first, last: Its phrases, both inclusive.
        count: The number that stands with it, 0 for "no"; None for a mere mention.
        ids: The numbers that it is called by.
        every: All rooms of the type are meant: a plural, "both".
        told: A relation's clause says it already.
        doubt: Why it stays unread: its `number` is not plain, or whether there is such a `room`; empty for a plain one.
    """

    kind: str
    first: int
    last: int
    count: int | None = None
    ids: tuple[int, ...] = ()
    every: bool = False
    told: bool = False
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
    """One text while it is read."""

    text: str
    tokens: list[Token]
    phrases: list[Phrase]
    items: list[Item] = field(default_factory=list[Item])
    relations: list[Relation] = field(default_factory=list[Relation])
    used: set[int] = field(default_factory=set[int])
    """Phrases that came to something."""
    uncertain: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """First and last phrases of enumerations of which it is not certain who belongs to the relation."""
    unsure: set[str] = field(default_factory=set[str])
    """Types of which the text gives only doubtful numbers; no mention of them is read."""

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
