"""Scenes: images that show what their captions say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.extensions.domains.scenes import DOMAIN
from loraloom.extensions.domains.scenes.captions import MOST_WORDS, styled
from loraloom.extensions.domains.scenes.catalogue import THINGS
from loraloom.extensions.domains.scenes.compose import compose
from loraloom.extensions.domains.scenes.dataset import file_name, image_seed, write_dataset
from loraloom.extensions.domains.scenes.dataset_generator import STYLES
from loraloom.extensions.domains.scenes.pen import COLOURS
from loraloom.extensions.domains.scenes.rendering import render, synthesize, words
from loraloom.extensions.domains.scenes.scene import relation
from loraloom.utils.atomic_files import beside
from loraloom.utils.errors import UserError

MANY = range(800)
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
NAMES = {name: thing.name for thing in THINGS.values() for name in (thing.name, thing.plural)}
_NOUN = "|".join(sorted(NAMES, key=len, reverse=True))
_COLOUR = "|".join(COLOURS)
MENTION = re.compile(
    rf"\b(?P<count>a|an|one|two|three|four) (?:(?P<size>small|large) )?(?:(?P<colour>{_COLOUR}) )?(?P<noun>{_NOUN})\b"
    rf"(?: in (?:an? )?(?P<coat>{_COLOUR}) coats?)?(?: with (?:an? )?(?P<second>{_COLOUR}) (?:roof|scar)\w*)?"
    rf"(?: facing (?P<facing>left|right))?(?: (?:is |are )?(?:on|in) the (?P<place>left|right|middle)\b)?"
)
BEFORE = re.compile(
    rf"(?:on|in) the (?P<place>left|right|middle) there (?:is|are) {MENTION.pattern.split('(?: (?:is')[0]}"
)


def fits(match: re.Match[str], group: dict[str, Any]) -> bool:
    """Whether a truth record is what a phrase says."""
    said = match.groupdict()
    return (
        NAMES[said["noun"]] == group["thing"]
        and NUMBERS[said["count"]] == group["count"] == len(group["boxes"])
        and (said["colour"] or said.get("coat") or group["colour"]) == group["colour"]
        and (said["size"] or group["size"]) == group["size"]
        and (said.get("second") or group["second_colour"]) == group["second_colour"]
        and (said.get("facing") or group["facing"]) == group["facing"]
        and (said.get("place") or group["place"]) == group["place"]
    )


def pixels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def contours(image: Image.Image) -> NDArray[np.float32]:
    """Strength of changes of grey in a small copy, without its border."""
    grey = pixels(image.convert("L").resize((64, 64), Image.Resampling.BOX))
    return np.hypot(np.diff(grey, axis=0)[3:-3, 3:-4], np.diff(grey, axis=1)[3:-4, 3:-3])


@pytest.fixture(scope="module")
def told() -> list[tuple[str, dict[str, Any]]]:
    """Caption and truth of many seeds."""
    return [words(seed) for seed in MANY]


def test_the_registry_finds_the_domain() -> None:
    assert plugins.load("domains", "scenes").name == "scenes"
    dataset_generator = plugins.load("domains", "scenes").dataset_generator
    image, text = dataset_generator.draw(3, "")
    assert (image.size, image.mode, text) == ((256, 256), "RGB", synthesize(3).caption)


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_always_draws_the_same(style: str) -> None:
    first, second = synthesize(11, style), synthesize(11, style)
    assert (first.caption, first.truth) == (second.caption, second.truth)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.image.size == (256, 256)
    assert first.image.mode == "RGB"
    assert (first.caption, first.truth) == words(11, style)


def test_captions_say_what_the_records_say(told: list[tuple[str, dict[str, Any]]]) -> None:
    mentions = 0
    for seed, (text, truth) in enumerate(told):
        plain = re.sub(rf" on an? ({_COLOUR}) background", "", text)
        for match in [*MENTION.finditer(plain), *BEFORE.finditer(plain)]:
            assert any(fits(match, group) for group in truth["groups"]), (seed, match[0], text, truth)
            mentions += 1
        background = re.search(rf"(?:on an?|background is) ({_COLOUR})(?: background|\b\.)", text)
        assert not background or background[1] == truth["background"]
        assert "night" not in text or truth["time"] == "night"
        assert "sunset" not in text or truth["time"] == "sunset"
    assert mentions > len(MANY)


def test_captions_vary_in_length_and_stay_short_enough_to_read(told: list[tuple[str, dict[str, Any]]]) -> None:
    captions = [text for text, _ in told]
    lengths = [len(text.split()) for text in captions]
    assert max(lengths) <= MOST_WORDS
    assert sum(length > 25 for length in lengths) > 0.08 * len(captions)
    assert sum(length < 6 for length in lengths) > 0.05 * len(captions)
    assert len(set(captions)) > 0.85 * len(captions)
    assert not [text for text in captions if "  " in text or re.search(r"\ba [aeio]|\ban [^aeiou]", text)]


def test_every_thing_and_colour_occurs(told: list[tuple[str, dict[str, Any]]]) -> None:
    groups = [group for _, truth in told for group in truth["groups"]]
    assert {group["thing"] for group in groups} == set(THINGS)
    assert {group["colour"] for group in groups} == set(COLOURS)
    assert {group["count"] for group in groups} == {1, 2, 3, 4}


def test_places_agree_with_boxes(told: list[tuple[str, dict[str, Any]]]) -> None:
    for _, truth in told:
        for group in truth["groups"]:
            centres = [(box[0] + box[2]) / 2 for box in group["boxes"]]
            assert all(0 <= box[0] < box[2] <= 256 and 0 <= box[1] < box[3] <= 256 for box in group["boxes"])
            assert group["place"] != "left" or max(centres) < 128
            assert group["place"] != "right" or min(centres) > 128


def test_relations_agree_with_boxes() -> None:
    found: set[str] = set()
    for seed in MANY:
        groups = compose(seed).groups
        for group in groups:
            for anchor in groups:
                joint = relation(group, anchor) if group is not anchor else ""
                here, there = group.items[0].box, anchor.items[0].box
                found.add(joint)
                assert joint != "to the left of" or here[2] <= there[0]
                assert joint != "to the right of" or here[0] >= there[2]
                assert joint != "above" or here[3] <= there[1] + 1
                assert joint != "in front of" or here[3] > there[3]
    assert found == {"", "above", "in front of", "next to", "to the left of", "to the right of"}


def test_the_named_colour_is_what_most_of_a_thing_is_drawn_in() -> None:
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), np.float32)
    wrong: list[tuple[int, str, str]] = []
    total = 0
    for seed in range(30):
        scene = compose(seed)
        whole = pixels(render(scene))
        for group in scene.groups:
            without = pixels(
                render(replace(scene, groups=tuple(other for other in scene.groups if other is not group)))
            )
            changed = np.abs(whole - without).max(axis=2) > 24
            inside = np.zeros_like(changed)
            for left, top, right, bottom in (item.box for item in group.items):
                inside[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
            # What lies outside is shadow.
            assert (changed & ~inside).sum() <= 0.12 * changed.sum(), (seed, group.thing)
            ink = whole[changed & inside]
            nearest = np.abs(ink[:, None] - palette).sum(axis=2).argmin(axis=1)
            seen = names[int(np.bincount(nearest, minlength=len(names)).argmax())]
            total += 1
            if seen != group.colour:
                wrong.append((seed, f"{group.colour} {group.thing}", seen))
    assert not wrong, f"{len(wrong)} of {total}: {wrong}"


def test_what_is_named_is_not_hidden_by_the_ground_or_by_other_things() -> None:
    """What a group changes in the whole image, against what it changes on a plain background alone."""
    for seed in range(200, 220):
        scene = compose(seed)
        whole = pixels(render(scene))
        for group in scene.groups:
            rest = replace(scene, groups=tuple(other for other in scene.groups if other is not group))
            there = (np.abs(whole - pixels(render(rest))).max(axis=2) > 12).sum()
            alone = replace(scene, world="", background="black" if group.colour != "black" else "white")
            drawn = pixels(render(replace(alone, groups=(group,)))) - pixels(render(replace(alone, groups=())))
            ink = (np.abs(drawn).max(axis=2) > 12).sum()
            assert there > 0.55 * ink, (seed, group.thing, there / ink)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "flat"])
def test_a_style_changes_the_look_and_keeps_the_layout(style: str) -> None:
    alike: list[float] = []
    for seed in (4, 8, 119):
        flat, other = synthesize(seed), synthesize(seed, style)
        assert np.abs(pixels(flat.image) - pixels(other.image)).mean() > 4
        assert other.caption.endswith(f", {style} style")
        assert other.truth == flat.truth
        both = [contours(image) for image in (flat.image, other.image)]
        alike.append(float(np.corrcoef(both[0].ravel(), both[1].ravel())[0, 1]))
    assert np.mean(alike) > 0.4, alike


def test_styles_differ_from_each_other() -> None:
    images = [pixels(synthesize(119, style).image) for style in STYLES]
    for number, first in enumerate(images):
        for second in images[:number]:
            assert np.abs(first - second).mean() > 4


def test_an_unknown_style_names_the_nearest() -> None:
    with pytest.raises(UserError, match="watercolour"):
        synthesize(1, "watercolor")


def test_mirroring_twice_changes_nothing(told: list[tuple[str, dict[str, Any]]]) -> None:
    sided = 0
    for seed, (flat, _) in enumerate(told):
        text = styled(flat, "cartoon", seed) if seed % 2 else flat
        other = DOMAIN.mirrored(text)
        assert other is not None, text
        assert DOMAIN.mirrored(other) == text
        assert (other != text) == bool(re.search(r"\b(left|right)\b", text))
        sided += other != text
    assert sided > 80


def test_the_mirrored_caption_is_true_of_the_mirrored_image(told: list[tuple[str, dict[str, Any]]]) -> None:
    swap = {"left": "right", "right": "left"}
    for seed, (text, truth) in enumerate(told):
        mirrored = re.sub(rf" on an? ({_COLOUR}) background", "", DOMAIN.mirrored(text) or "")
        groups = [
            {**group, "place": swap.get(group["place"], group["place"]), "facing": swap.get(group["facing"], "")}
            for group in truth["groups"]
        ]
        for match in [*MENTION.finditer(mirrored), *BEFORE.finditer(mirrored)]:
            assert any(fits(match, group) for group in groups), (seed, match[0])


@pytest.mark.parametrize(
    "text",
    ["he left the house", "a dog right behind the car", "a sign that reads stop", "the leftmost car", "facing east"],
)
def test_words_that_may_tell_sides_forbid_mirroring(text: str) -> None:
    assert DOMAIN.mirrored(text) is None


def test_sections_are_sentences() -> None:
    text = "there is a red car. the sky is blue."
    (section,) = DOMAIN.sections(text)
    assert (section.header, section.sentences) == ("", ("there is a red car.", "the sky is blue."))
    assert DOMAIN.sections("  ") == []
    for seed in range(100):
        caption = words(seed)[0]
        assert " ".join(DOMAIN.sections(caption)[0].sentences) == caption


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_an_interrupted_dataset_is_completed_and_not_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(folder, 40, 5, progress=stop)
    assert not (folder / "metadata.jsonl").exists()
    first = folder / file_name(0)
    before = first.stat().st_mtime_ns
    beside(folder / "images" / "000001.png").write_bytes(b"half")
    seen: list[tuple[int, int]] = []
    write_dataset(folder, 40, 5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert first.stat().st_mtime_ns == before
    assert sorted(path.name for path in (folder / "images").iterdir()) == [f"{number:06d}.png" for number in range(40)]
    metadata, truth = rows(folder, "metadata.jsonl"), rows(folder, "truth.jsonl")
    assert [row["file_name"] for row in metadata] == [file_name(number) for number in range(40)]
    drawn = synthesize(image_seed(5, 7))
    assert metadata[7] == {"file_name": file_name(7), "text": drawn.caption}
    assert truth[7] == {"file_name": file_name(7), "seed": image_seed(5, 7), **drawn.truth}
    with Image.open(folder / file_name(7)) as image:
        assert image.tobytes() == drawn.image.tobytes()


def test_processes_draw_what_one_process_draws(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", 66, 2, workers=1)
    write_dataset(tmp_path / "two", 66, 2, workers=2)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        write_dataset(tmp_path, 1, 0)
    write_dataset(tmp_path / "a", 2, 0)
    for count, seed, style in ((2, 1, "flat"), (2, 0, "cartoon"), (1, 0, "flat")):
        with pytest.raises(UserError, match="another dataset"):
            write_dataset(tmp_path / "a", count, seed, style)
    with pytest.raises(UserError, match="number of images"):
        write_dataset(tmp_path / "b", 0, 0)
