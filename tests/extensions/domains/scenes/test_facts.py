"""What captions of scenes say, fact by fact, against what the scenes are."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from loraloom.extensions.domains.scenes.catalogue import THINGS
from loraloom.extensions.domains.scenes.compose import compose
from loraloom.extensions.domains.scenes.facts import facts
from loraloom.extensions.domains.scenes.mirroring import mirrored
from loraloom.extensions.domains.scenes.pen import COLOURS
from loraloom.extensions.domains.scenes.rendering import words
from loraloom.extensions.domains.scenes.scene import Scene, in_a_row, relation
from loraloom.extensions.domains.scenes.worlds import WORLDS

SEEDS = range(600)
KINDS = {words: name for name, thing in THINGS.items() for words in (name, thing.plural)}
PLACES = ("on the left", "on the right", "in the middle", "in a row", "far away", "very near")
TURNED = {
    "above": "under", "in front of": "behind", "next to": "next to",
    "to the left of": "to the right of", "to the right of": "to the left of",
}  # fmt: skip


def truths(scene: Scene) -> set[tuple[str, str, str]]:
    """All that a caption could say of a scene."""
    true: set[tuple[str, str, str]] = set()
    for group in scene.groups:
        true |= {(group.colour, "colour-of", group.thing), (group.thing, "in-colour", group.colour)}
        part = "roof-of" if group.thing == "house" else "scarf-of"
        for name in (group.thing, group.colour):
            true |= {(str(len(group.items)), "how-many", name), (group.size, "size-of", name)}
            true |= {(group.facing, "facing-of", name), (group.second, part, name)}
            places = [group.place, group.depth, "row" if in_a_row(group) else ""]
            true |= {(place, "place-of", name) for place in places}
        for anchor in scene.groups:
            if group is not anchor and (joint := relation(group, anchor)):
                true.add((group.thing, joint.replace(" ", "-"), anchor.thing))
                true.add((anchor.thing, TURNED[joint].replace(" ", "-"), group.thing))
    true |= {
        (scene.background, "background-of", "scene"),
        (scene.world, "where", "scene"),
        (scene.time, "when", "scene"),
    }
    return {fact for fact in true if fact[0]}


@pytest.mark.parametrize("style", ["flat", "cartoon"])
def test_every_fact_is_true_of_the_scene(style: str) -> None:
    relations: set[str] = set()
    for seed in SEEDS:
        said = set(facts(words(seed, style)[0]))
        if style != "flat":
            said.remove((style, "style-of", "scene"))
        assert said <= truths(compose(seed)), words(seed)[0]
        relations |= {relation for _, relation, _ in said}
    assert {"roof-of", "scarf-of", "facing-of", "size-of", *(joint.replace(" ", "-") for joint in TURNED)} <= relations


def test_no_word_for_a_thing_a_colour_a_place_or_a_joint_goes_unnoticed() -> None:
    def words_of(options: Iterable[str]) -> re.Pattern[str]:
        return re.compile(rf"\b({'|'.join(sorted(options, key=len, reverse=True))})\b")

    things, colours, places = words_of(KINDS), words_of(COLOURS), words_of(PLACES)
    phrases = words_of(phrase for world in WORLDS.values() for phrase in world.phrases)
    for seed in SEEDS:
        text = words(seed)[0]
        said = facts(text)
        told = Counter(relation for _, relation, _ in said)
        named = [KINDS[word] for word in things.findall(text)]
        once = {name for name in named if named.count(name) == 1}
        assert once <= {thing for _, relation, thing in said if relation == "how-many"}, text
        seen = {
            subject
            for subject, relation, _ in said
            if relation in {"colour-of", "background-of", "roof-of", "scarf-of"}
        }
        unnamed = {"blue", "orange", "green", "yellow", "brown"}  # "the sky is blue", "the grass is green"
        assert {*colours.findall(text)} - unnamed <= seen | set(named), text
        if len(once) == len(named):  # each place is told of its thing
            placed = [thing for _, relation, thing in said if relation == "place-of" and thing in THINGS]
            assert len(placed) == len(places.findall(text)), text
        assert bool(phrases.search(text)) == bool(told["where"]), text
        assert (" background" in text) == bool(told["background-of"]), text
        assert ("at night" in text or "at sunset" in text or "the sky is" in text) == bool(told["when"]), text
        joints = {joint for joint in TURNED if f" {joint} the " in text}
        assert joints <= {relation.replace("-", " ") for relation in told}, text


def test_a_mirrored_caption_says_the_same_with_sides_exchanged() -> None:
    def other(word: str) -> str:
        return re.sub("left|right", lambda side: {"left": "right", "right": "left"}[side[0]], word)

    for seed in SEEDS:
        text = words(seed)[0]
        there = mirrored(text)
        assert there is not None
        exchanged = {(other(subject), other(relation), thing) for subject, relation, thing in facts(text)}
        assert set(facts(there)) == exchanged


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[Number and Type of Rooms] The floorplan have 3 bedroom, 1 kitchen.",
        "[Room Connection] kitchen #1 connects.",
    ],
)
def test_other_texts_say_nothing_of_scenes(text: str) -> None:
    assert facts(text) == []
