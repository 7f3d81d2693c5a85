"""What every captioner promises, whichever it is."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
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
from loraloom.utils.image_bytes import RefusedError
from tests.support.images import drawn, save

CAPTIONERS = plugins.names("captioners")
every_captioner = pytest.mark.parametrize("name", CAPTIONERS)


@pytest.fixture(scope="module")
def tiny_models() -> Iterator[Path]:
    """A folder for the tiny models of random weights, one of each captioner."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _ready(name: str, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip without the captioner's own libraries; build its tiny model once, and name it in all options."""
    found = plugins.load_contract("captioners", name)
    for module in found.needs:
        pytest.importorskip(module, reason=f"the captioner {name} is tested with {module}")
    place = tiny_models / name
    if found.build_tiny and not place.exists():
        place.mkdir()
        found.build_tiny(place)
    monkeypatch.setitem(MODELS, name, {"caption_model": str(place)} if found.build_tiny else {})


MODELS: dict[str, dict[str, Any]] = {}
"""Options that name the tiny model of a captioner, while its tests run."""


def contract(name: str) -> CaptionerContract:
    """The contract, with the tiny model in the options of its examples."""
    found = plugins.load_contract("captioners", name)
    assert isinstance(found, CaptionerContract)
    assert found.examples
    examples = tuple(replace(example, options={**MODELS[name], **example.options}) for example in found.examples)
    return replace(found, examples=examples, refused=tuple({**MODELS[name], **options} for options in found.refused))


def image_for(name: str, seed: int) -> Image.Image:
    """An image that the captioner can caption."""
    render = contract(name).render
    return render() if render else drawn(seed, 16, 12)


def caption(name: str, image: Image.Image, item_id: str, options: Mapping[str, Any], trigger: str) -> str:
    """The caption that the captioner writes with the rest of its settings at their defaults."""
    captioner: Captioner = plugins.load("captioners", name)
    config = read_settings(PrepareConfig, values=options)
    item = SourceItem(id=item_id, image=Path("source") / f"{item_id}.png", caption=None)
    return captioner.caption(image, item, options_of(config, [captioner]), trigger)


def answer(name: str, example: CaptionExample, image: Image.Image | None = None) -> str:
    return caption(name, image or image_for(name, 1), example.item_id, example.options, example.trigger)


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
        image = image_for(name, 3)
        before = np.asarray(image).copy()
        assert answer(name, example, image) == answer(name, example, image.copy())
        assert np.array_equal(np.asarray(image), before)


@every_captioner
@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (33, 7)])
def test_an_image_of_any_shape_gets_a_caption_or_is_refused_with_a_reason(name: str, size: tuple[int, int]) -> None:
    for example in contract(name).examples:
        try:
            assert answer(name, example, Image.new("RGB", size)).strip()
        except RefusedError as error:  # of a captioner for images of one kind
            assert contract(name).render
            assert str(error)


PARTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1)


@every_captioner
@given(parts=st.lists(PARTS.filter(lambda part: part.strip(". ") != ""), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_a_file_of_any_name_gets_a_caption_that_utf_8_can_hold(name: str, parts: list[str]) -> None:
    example = contract(name).examples[0]
    text = caption(name, image_for(name, 1), "/".join(parts), example.options, example.trigger)
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
    save(image_for(name, 1), tmp_path / "raw/a.png")
    side = max(16, image_for(name, 1).height // 8 * 8)
    for example in contract(name).examples:
        values = {"captioner": name, "size": side, "bucket_step": 8, "min_size": 1, "num_workers": 1}
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


@every_captioner
def test_a_model_samples_further_captions_by_seed_and_image_whatever_the_batch(name: str) -> None:
    """An interrupted run has other batches than a whole one, and must end with the same captions."""
    captioner = plugins.load("captioners", name)
    if not hasattr(captioner, "caption_many"):
        pytest.skip("it has no model")
    example = contract(name).examples[0]
    config = read_settings(PrepareConfig, values=example.options)
    options = options_of(config, [captioner])
    images = [drawn(seed, 40, 30) for seed in range(3)]
    items = [SourceItem(id=f"{seed}", image=Path(f"source/{seed}.png"), caption=None) for seed in range(3)]
    whole = captioner.caption_many(images, items, options, "", 4, 7)
    assert [len(answer) <= 4 and bool(answer[0]) for answer in whole] == [True] * 3
    assert captioner.caption_many(images[1:2], items[1:2], options, "", 4, 7) == whole[1:2]
    first = [answer[0] for answer in captioner.caption_many(images, items, options, "", 1, 99)]
    assert first == [answer[0] for answer in whole]


@every_captioner
def test_a_model_is_opened_by_its_captioner_only_from_a_folder_of_safetensors(name: str, tmp_path: Path) -> None:
    captioner = plugins.load("captioners", name)
    if not hasattr(captioner, "caption_many"):
        pytest.skip("it has no model")
    config = read_settings(PrepareConfig, values={"caption_model": str(tmp_path)})
    item = SourceItem(id="a", image=Path("a.png"), caption=None)
    with pytest.raises(UserError, match="missing"):
        captioner.caption(drawn(1, 16, 12), item, options_of(config, [captioner]), "sks")
