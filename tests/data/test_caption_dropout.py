"""Which captions are dropped is a function of seed, epoch and image, each text encoder's choice its own."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from loraloom.config.run import DataConfig
from loraloom.data.caption_dropout import CaptionDropout, make_caption_dropout
from loraloom.utils.errors import UserError
from loraloom.utils.rng import uniform

ENCODERS = {"one": 0.4, "two": 0.0, "three": 0.2}
IMAGES = 3000


def drawn(dropout: CaptionDropout) -> list[frozenset[str]]:
    return [dropout.dropped(7, 0, str(number)) for number in range(IMAGES)]


def test_each_encoder_is_dropped_as_often_as_was_asked_and_independently_of_the_others() -> None:
    found = drawn(CaptionDropout(whole=0.0, encoders=ENCODERS))
    for combination in product((True, False), repeat=2):
        share = sum(("one" in each, "three" in each) == combination for each in found) / IMAGES
        expected = (0.4 if combination[0] else 0.6) * (0.2 if combination[1] else 0.8)
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / IMAGES) ** 0.5)
    assert not any("two" in each for each in found)


def test_dropout_of_whole_captions_is_what_it_was_without_that_of_encoders() -> None:
    """A run that began before encoders could be dropped goes on as it began."""
    plain, both = (drawn(CaptionDropout(whole=0.3, encoders=own)) for own in (dict.fromkeys(ENCODERS, 0.0), ENCODERS))
    whole = [uniform(7, 0, str(number), "caption dropout") < 0.3 for number in range(IMAGES)]
    assert plain == [frozenset(ENCODERS) if each else frozenset() for each in whole]
    assert all(each == frozenset(ENCODERS) for each, dropped in zip(both, whole, strict=True) if dropped)


def test_the_choice_does_not_depend_on_what_was_drawn_before() -> None:
    dropout = CaptionDropout(whole=0.1, encoders=ENCODERS)
    found = drawn(dropout)
    assert [dropout.dropped(7, 0, str(number)) for number in reversed(range(IMAGES))] == found[::-1]
    assert [dropout.dropped(7, 1, str(number)) for number in range(IMAGES)] != found


def test_the_line_says_how_many_images_learn_without_text() -> None:
    assert CaptionDropout(whole=0.1, encoders={"one": 0.0, "two": 0.0}).line() is None
    line = CaptionDropout(whole=0.1, encoders={"one": 0.5, "two": 0.2}).line()
    assert line == "caption dropout: 10.0% for all encoders, besides one 50.0%, two 20.0%; 19.0% learn without text"
    assert "; 10.0% learn" in str(CaptionDropout(whole=0.1, encoders={"one": 0.5, "two": 0.0}).line())


@pytest.mark.parametrize("wrong", ["text_encoder", "text_encoder=1.5", "text_encoder=-0.1", "=0.1", "text encoder=0.1"])
def test_a_setting_of_another_form_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"such as text_encoder_2=0\.1"):
        DataConfig(encoder_dropout=(wrong,))


def test_an_encoder_with_two_probabilities_is_refused() -> None:
    with pytest.raises(ValidationError, match="two probabilities"):
        DataConfig(encoder_dropout=("one=0.1", "one=0.2"))


def test_a_family_that_cannot_mix_embeddings_is_refused_by_name() -> None:
    parts = [SimpleNamespace(name=name, lora_targets={}) for name in ("one", "two")]
    model: Any = SimpleNamespace(text=object(), info=SimpleNamespace(family="foreign", text_encoders=parts))
    made = make_caption_dropout(DataConfig(), model, trains_text_encoder=False)
    assert made.encoders == {"one": 0.0, "two": 0.0}
    with pytest.raises(UserError, match="foreign"):
        make_caption_dropout(DataConfig(encoder_dropout=("one=0.1",)), model, trains_text_encoder=False)
