"""Decide which room a clause of free text is about, and whether that is certain.

In: a `Reading` and a room in it. Out: whether the room may be the subject of the words that follow it. Where an unknown
word may be the subject ("the study overlooking the bathroom is ..."), or the room belongs to a relation that was not
read ("the study is south of the bathroom and north of ..."), it may not: the relation that follows would be invented.
"""

from .reading import Item, Reading

VERBS = frozenset([
    "is", "are", "was", "were", "has", "have", "lies", "lie", "sits", "stands", "goes", "located", "situated", "placed",
    "positioned", "found", "should", "shall", "must", "will", "can", "may",
])  # fmt: skip
PRONOUNS = frozenset(["it", "it's", "its"])
PARTS = frozenset(
    [
        "window",
        "windows",
        "wall",
        "walls",
        "corner",
        "corners",
        "side",
        "door",
        "doors",
        "edge",
        "end",
        "sink",
        "stairs",
    ]
)
"""Words that, after a room, are what the phrase means: "left of the kitchen window"."""

_DETERMINERS = frozenset(["a", "an", "the", "'", '"', "\u2018", "\u2019", "\u201c", "\u201d", "*", "all"])
_RELATING = ("direction", "direction-after", "door", "doors", "door-after", "between", "near", "doubt")


def is_determiner(reading: Reading, place: int) -> bool:
    """Whether a phrase is an article, or a sign that adds nothing."""
    return reading.kind(place) in ("filler", "all") and reading.phrases[place].value in _DETERMINERS


def heads_clause(reading: Reading, item: Item, *, is_said: bool, elided: bool) -> bool:
    """Whether a room may be the subject of a relation after it.

    Args:
        reading: The text that is read.
        item: The room.
        is_said: A verb stands between room and relation, so that the clause's first noun is its subject: "the study
            with the bath is above ...". Without one the nearest noun is meant: "a study, a bath above ...".
        elided: "and" or a comma stands between them: "the study is above the bath and left of ...".
    """
    place, crossed = item.first - 1, False
    while reading.kind(place) == "other":  # "sunny kitchen"
        place -= 1
    while True:
        kind = reading.kind(place)
        if kind in ("stop", "comma", "who") or (place in reading.used and kind in _RELATING):
            return True
        if kind == "and":
            crossed = True
        elif reading.phrases[place].value.endswith("between") or (kind in _RELATING and (elided or not crossed)):
            return False
        elif crossed and not elided:
            pass  # another subject beside the room
        elif (kind == "other" and (is_said or elided)) or (
            elided and not crossed and reading.item_at(place) is not None
        ):
            return False
        place -= 1
