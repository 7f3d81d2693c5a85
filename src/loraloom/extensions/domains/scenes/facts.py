"""The facts that a scene's caption states.

In: a caption of the grammar in `captions`, or a part of one. Out: (subject, relation, object) triples. Counts, sizes, places
and the like are facts of a kind and of a colour, except of one that the caption names twice: for a red car and two blue
ones the facts are how many are red and how many are blue. "Under the sun" states that there is a sun.
"""

import re
from collections import Counter
from collections.abc import Iterator

from loraloom.extensions.domains.scenes.catalogue import THINGS
from loraloom.extensions.domains.scenes.pen import COLOURS
from loraloom.extensions.domains.scenes.worlds import SKY_WORD, WORLDS

Fact = tuple[str, str, str]

SCENE = "scene"
"""The object of facts about the whole image."""

_COUNTS = {"a": "1", "an": "1", "the": "1", "one": "1", "two": "2", "three": "3", "four": "4"}
_KINDS = {words: name for name, thing in THINGS.items() for words in (name, thing.plural)}
_TURNED = {
    "above": "under",
    "in front of": "behind",
    "next to": "next to",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
}
"""Relations that captions name, and their inverses."""
_PLACES = {
    "on the left": "left",
    "on the right": "right",
    "in the middle": "middle",
    "in a row": "row",
    "far away": "far",
    "very near": "near",
}


def _any(words: Iterator[str] | list[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COLOUR, _PLACE = _any([*COLOURS]), _any([*_PLACES])
_MENTION = re.compile(
    rf"\b(?:(?P<ahead>{_PLACE}) there (?:is|are) )?(?P<number>{_any([*_COUNTS])}) (?:(?P<size>small|large) )?"
    rf"(?:(?P<colour>{_COLOUR}) )?(?P<noun>{_any([*_KINDS])})\b"
    rf"(?: in (?:(?:an?|the) )?(?P<coat>{_COLOUR}) coats?)?"
    rf"(?: with (?:an? )?(?P<second>{_COLOUR}) (?P<part>roof|scar[fv])\w*)?"
    r"(?: facing (?P<facing>left|right))?"
    rf"(?:(?: is| are)? (?P<place>{_PLACE}))?"
    rf"(?: (?:is|are) (?P<relation>{_any([*_TURNED])}) (?=the ))?"
)
_BACKGROUND = re.compile(rf"\b(?:on an? (?P<on>{_COLOUR}) background|the background is (?P<is>{_COLOUR}))\b")
_WORLD = {phrase: name for name, world in WORLDS.items() for phrase in world.phrases}
_SETTING = re.compile(rf"\b(?P<phrase>{_any([*_WORLD])})\b")
_TIME = re.compile(rf"\bat (?P<time>night|sunset)\b|\bthe sky is (?P<sky>{_any([*SKY_WORD.values()])})\b")
_STYLE = re.compile(r", (?P<style>\w+) style$")


def facts(text: str) -> list[Fact]:
    """The facts that a caption states of its things and its scene, with inverse relations. Empty for other texts."""
    found: dict[Fact, None] = {}
    mentions, anchored = list(_MENTION.finditer(text)), None
    # The thing after a relation, as in `next to the red car`, was mentioned before.
    first_mentions = [
        match for before, match in zip([None, *mentions], mentions, strict=False) if not (before and before["relation"])
    ]
    times = Counter(name for match in first_mentions for name in _names(match))
    for match in mentions:
        noun, colour = _names(match)
        if colour:
            found |= {(colour, "colour-of", noun): None, (noun, "in-colour", colour): None}
        if anchored is None:
            names = [name for name in (noun, colour) if name and times[name] == 1]
            found |= {(word, relation, name): None for name in names for word, relation in _said(match)}
        else:
            relation, other = anchored["relation"], _names(anchored)[0]
            found[other, relation.replace(" ", "-"), noun] = None
            found[noun, _TURNED[relation].replace(" ", "-"), other] = None
        anchored = match if match["relation"] else None
    return list(found | dict.fromkeys(_of_scene(text)))


def _names(match: re.Match[str]) -> tuple[str, str]:
    """Kind and colour of a mention; the colour is empty if it is not named."""
    return _KINDS[match["noun"]], match["colour"] or match["coat"] or ""


def _said(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    """Subject and relation of the facts of a mention."""
    yield _COUNTS[match["number"]], "how-many"
    if match["size"]:
        yield match["size"], "size-of"
    if place := match["place"] or match["ahead"]:
        yield _PLACES[place], "place-of"
    if match["facing"]:
        yield match["facing"], "facing-of"
    if match["second"]:
        yield match["second"], "roof-of" if match["part"] == "roof" else "scarf-of"


def _of_scene(text: str) -> Iterator[Fact]:
    if match := _BACKGROUND.search(text):
        yield match["on"] or match["is"], "background-of", SCENE
    if match := _SETTING.search(text):
        yield _WORLD[match["phrase"]], "where", SCENE
    if match := _TIME.search(text):
        yield match["time"] or next(time for time, word in SKY_WORD.items() if word == match["sky"]), "when", SCENE
    if match := _STYLE.search(text):
        yield match["style"], "style-of", SCENE
