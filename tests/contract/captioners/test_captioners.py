"""What every captioner promises, whichever it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.config.extending import options_of
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.run import prepare
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import Captioner, SourceItem
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save

CAPTIONERS = plugins.names("captioners")
every_captioner = pytest.mark.parametrize("name", CAPTIONERS)


def contract(name: str) -> CaptionerContract:
    found = plugins.load_contract("captioners", name)
    assert isinstance(found, CaptionerContract)
    assert found.examples
    return found


def caption(name: str, image: Image.Image, item_id: str, options: Mapping[str, Any], trigger: str) -> str:
    """The caption that the captioner writes with the rest of its settings at their defaults."""
    captioner: Captioner = plugins.load("captioners", name)
    config = read_settings(PrepareConfig, values=options)
    item = SourceItem(id=item_id, image=Path("source") / f"{item_id}.png", caption=None)
    return captioner.caption(image, item, options_of(config, [captioner]), trigger)


def answer(name: str, example: CaptionExample, image: Image.Image | None = None) -> str:
    return caption(name, image or drawn(1, 16, 12), example.item_id, example.options, example.trigger)


@every_captioner
def test_it_is_named_as_its_file(name: str) -> None:
    assert plugins.load("captioners", name).name == name


@every_captioner
def test_it_writes_what_its_examples_say(name: str) -> None:
    for example in contract(name).examples:
        assert answer(name, example).strip()
        assert example.caption in (None, answer(name, example))


@every_captioner
def test_the_same_question_gets_the_same_caption_and_the_image_stays_as_it_is(name: str) -> None:
    """`prepare` asks once and keeps the answer."""
    for example in contract(name).examples:
        image = drawn(3, 16, 12)
        before = np.asarray(image).copy()
        assert answer(name, example, image) == answer(name, example, image.copy())
        assert np.array_equal(np.asarray(image), before)


@every_captioner
@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (33, 7)])
def test_an_image_of_any_shape_gets_a_caption(name: str, size: tuple[int, int]) -> None:
    for example in contract(name).examples:
        assert answer(name, example, Image.new("RGB", size)).strip()


PARTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1)


@every_captioner
@given(parts=st.lists(PARTS.filter(lambda part: part.strip(". ") != ""), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_file_of_any_name_gets_a_caption_that_utf_8_can_hold(name: str, parts: list[str]) -> None:
    example = contract(name).examples[0]
    text = caption(name, Image.new("RGB", (4, 4)), "/".join(parts), example.options, example.trigger)
    assert text.encode("utf-8").decode("utf-8") == text


@every_captioner
def test_options_that_cannot_be_used_are_the_users_mistake(name: str) -> None:
    for options in contract(name).refused:
        with pytest.raises(UserError):
            caption(name, drawn(1, 8, 8), "a", options, "sks")


@every_captioner
def test_prepare_captions_images_without_text_by_it_and_asks_again_when_its_settings_change(
    name: str, tmp_path: Path
) -> None:
    save(drawn(1, 32, 32), tmp_path / "raw/a.png")
    for example in contract(name).examples:
        values = {"captioner": name, "size": 16, "bucket_step": 8, "min_size": 1, "num_workers": 1}
        config = read_settings(PrepareConfig, values={**values, "trigger": example.trigger, **example.options})
        report = prepare(tmp_path / "raw", tmp_path / "out", config, console=lambda line: None)
        (made,) = report.manifest.examples
        with Image.open(tmp_path / "out" / made.image) as image:
            captioner = plugins.load("captioners", name)
            item = SourceItem(id="a", image=tmp_path / "raw/a.png", caption=None)
            written = captioner.caption(image, item, options_of(config, [captioner]), example.trigger)
        assert written.strip() in made.caption
        assert made.caption_found is None
        assert report.num_without_caption == 1
