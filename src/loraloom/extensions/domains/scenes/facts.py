"""What a scene's caption says, fact by fact.

In: a caption of the grammar in `captions`, or a part of one. Out: (subject, relation, object) triples. Of two cars in two
colours `colour-of car` has two answers: counts, sizes and places are told of a kind and of a colour, and so of each thing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from loraloom.extensions.domains.scenes.catalogue import THINGS
from loraloom.extensions.domains.scenes.pen import COLOURS
from loraloom.extensions.domains.scenes.worlds import SKY_WORD, WORLDS

Fact = tuple[str, str, str]

SCENE = "scene"
"""The object of facts about the whole picture."""

_COUNTS = {"a": "1", "an": "1", "the": "1", "one": "1", "two": "2", "three": "3", "four": "4"}
_KINDS = {words: name for name, thing in THINGS.items() for words in (name, thing.plural)}
_TURNED = {
    "above": "under", "in front of": "behind", "next to": "next to",
    "to the left of": "to the right of", "to the right of": "to the left of",
}  # fmt: skip
"""Relations that captions name, and what they are the other way round."""
_PLACES = {
    "on the left": "left", "on the right": "right", "in the middle": "middle", "in a row": "row",
    "far away": "far", "very near": "near",
}  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class _Mention:
    """Things as a caption names them; `noun` is singular, what is not said is empty."""

    noun: str
    colour: str
    relation: str
    facts: tuple[Fact, ...]


def facts(text: str) -> list[Fact]:
    """What a caption says of its things and of its scene; what follows the other way round as well. Empty for other texts."""
    found: dict[Fact, None] = {}
    anchored: _Mention | None = None
    for match in _MENTION.finditer(text):
        mention = _mention(match, anchor=anchored is not None)
        if anchored is not None:
            relation = anchored.relation
            found[anchored.noun, relation.replace(" ", "-"), mention.noun] = None
            found[mention.noun, _TURNED[relation].replace(" ", "-"), anchored.noun] = None
        found.update(dict.fromkeys(mention.facts))
        anchored = mention if mention.relation else None
    if found:
        found.update(dict.fromkeys(_of_scene(text)))
    return list(found)


def _mention(match: re.Match[str], *, anchor: bool) -> _Mention:
    """A noun phrase and all that stands with it. Of an anchor only words that tell it from others: `next to the car`."""
    noun = _KINDS[match["noun"]]
    colour = match["colour"] or match["coat"] or ""
    said: list[Fact] = []
    if colour:
        said += [(colour, "colour-of", noun), (noun, "in-colour", colour)]
    if not anchor:
        objects = [name for name in (noun, colour) if name]
        place = match["place"] or match["ahead"]
        said += [(_COUNTS[match["number"]], "how-many", name) for name in objects]
        said += [(match["size"], "size-of", name) for name in objects if match["size"]]
        said += [(_PLACES[place], "place-of", name) for name in objects if place]
        if match["facing"]:
            said.append((match["facing"], "facing-of", noun))
        if match["second"]:
            said.append((match["second"], "roof-of" if match["part"] == "roof" else "scarf-of", noun))
    return _Mention(noun, colour, match["relation"] or "", tuple(said))


def _of_scene(text: str) -> Iterator[Fact]:
    if match := _BACKGROUND.search(text):
        yield match["on"] or match["is"], "background-of", SCENE
    if match := _SETTING.search(text):
        yield _WORLD[match["phrase"]], "where", SCENE
    if match := _TIME.search(text):
        yield match["time"] or next(time for time, word in SKY_WORD.items() if word == match["sky"]), "when", SCENE
    if match := _STYLE.search(text):
        yield match["style"], "style-of", SCENE
