"""What captions of scenes say, fact by fact, against what the scenes are."""

import re

import pytest

from loraloom.extensions.domains.scenes.catalogue import THINGS
from loraloom.extensions.domains.scenes.compose import compose
from loraloom.extensions.domains.scenes.drawing import words
from loraloom.extensions.domains.scenes.facts import facts
from loraloom.extensions.domains.scenes.mirroring import mirrored
from loraloom.extensions.domains.scenes.scene import Scene, in_a_row, relation
from loraloom.extensions.domains.scenes.worlds import WORLDS

SEEDS = range(600)
KINDS = {words: name for name, thing in THINGS.items() for words in (name, thing.plural)}
PLACES = ("on the left", "on the right", "in the middle", "in a row", "far away", "very near")
JOINTS = ("above", "in front of", "next to", "to the left of", "to the right of")


def truths(scene: Scene) -> set[tuple[str, str, str]]:
    """All that a caption could say of a scene."""
    true: set[tuple[str, str, str]] = set()
    for group in scene.groups:
        true |= {(group.colour, "colour-of", group.thing), (group.thing, "in-colour", group.colour)}
        true.add((group.facing, "facing-of", group.thing))
        true.add((group.second, "roof-of" if group.thing == "house" else "scarf-of", group.thing))
        for name in (group.thing, group.colour):
            true |= {(str(len(group.items)), "how-many", name), (group.size, "size-of", name)}
            places = [group.place, group.depth, "row" if in_a_row(group) else ""]
            true |= {(place, "place-of", name) for place in places}
        for anchor in scene.groups:
            if group is not anchor and (joint := relation(group, anchor)):
                true.add((group.thing, joint.replace(" ", "-"), anchor.thing))
                back = {"above": "under", "in front of": "behind"}.get(joint, joint)
                if "left" in joint or "right" in joint:
                    back = joint.replace("left", "right") if "left" in joint else joint.replace("right", "left")
                true.add((anchor.thing, back.replace(" ", "-"), group.thing))
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
    assert {"roof-of", "scarf-of", "facing-of", "size-of", *(joint.replace(" ", "-") for joint in JOINTS)} <= relations


def test_no_word_for_a_thing_a_place_or_a_joint_goes_unnoticed() -> None:
    things = re.compile(rf"\b({'|'.join(sorted(KINDS, key=len, reverse=True))})\b")
    phrases = re.compile(rf"\b({'|'.join(phrase for world in WORLDS.values() for phrase in world.phrases)})\b")
    for seed in SEEDS:
        text = words(seed)[0]
        said = facts(text)
        counted = {thing for _, relation, thing in said if relation == "how-many"}
        assert {KINDS[word] for word in things.findall(text)} <= counted, text
        places = sum(f" {place}" in f" {text}" for place in PLACES)
        assert bool(places) == any(relation == "place-of" for _, relation, _ in said), text
        assert bool(phrases.search(text)) == any(relation == "where" for _, relation, _ in said), text
        joints = sum(f" {joint} the " in text for joint in JOINTS)
        assert bool(joints) == any(relation.replace("-", " ") in JOINTS for _, relation, _ in said), text


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
