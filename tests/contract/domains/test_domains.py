"""What every domain promises, whoever wrote it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.detect import choose_format, format_options
from loraloom.protocols.contracts import DomainContract
from loraloom.protocols.domain import Domain
from loraloom.utils.errors import UserError

DOMAINS = plugins.names("domains")
ARTISTS = [name for name in DOMAINS if plugins.load("domains", name).dataset_generator is not None]
JUDGES = [name for name in ARTISTS if plugins.load("domains", name).verifier is not None]


def domain(name: str) -> Domain:
    return plugins.load("domains", name)


def contract(name: str) -> DomainContract:
    found = plugins.load_contract("domains", name)
    assert isinstance(found, DomainContract)
    return found


def joined(name: str, caption: str) -> str:
    parts = [part for section in domain(name).sections(caption) for part in (section.header, *section.sentences)]
    return " ".join(" ".join(parts).split())


@pytest.mark.parametrize("name", DOMAINS)
@given(caption=st.text(alphabet="ab #1.[]!?,\n 가", max_size=60))
@settings(max_examples=60)
def test_sections_hold_the_whole_caption(name: str, caption: str) -> None:
    assert joined(name, caption) == " ".join(caption.split())


@pytest.mark.parametrize("name", DOMAINS)
def test_sections_hold_all_of_its_own_captions(name: str) -> None:
    assert contract(name).captions
    for caption in contract(name).captions:
        assert domain(name).sections(caption)
        assert joined(name, caption) == " ".join(caption.split())


@pytest.mark.parametrize("name", DOMAINS)
def test_a_mirrored_caption_mirrored_again_reads_like_itself(name: str) -> None:
    for caption in contract(name).captions:
        mirrored = domain(name).mirrored(caption)
        if mirrored is not None:
            assert domain(name).mirrored(mirrored) is not None
            assert domain(name).sections(mirrored)


@pytest.mark.parametrize("name", DOMAINS)
def test_colours_of_a_caption_are_rgb(name: str) -> None:
    for caption in contract(name).captions:
        colours = domain(name).colours(caption)
        assert all(len(rgb) == 3 and all(0 <= value <= 255 for value in rgb) for rgb in colours.values())


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_named_as_its_folder(name: str) -> None:
    assert domain(name).name == name


@pytest.mark.parametrize("name", ARTISTS)
def test_a_drawing_is_decided_by_seed_and_style(name: str) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    for style in dataset_generator.styles:
        one, text = dataset_generator.draw(11, style)
        other, same = dataset_generator.draw(11, style)
        assert one.size == contract(name).image_size
        assert one.mode == "RGB"
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert text == same != ""
        assert joined(name, text) == " ".join(text.split())


@pytest.mark.parametrize("name", ARTISTS)
def test_a_domain_finds_nothing_wrong_with_an_image_that_its_artist_drew(name: str) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    for style in dataset_generator.styles:
        assert domain(name).check_image(dataset_generator.draw(11, style)[0]) is None


@pytest.mark.parametrize("name", ARTISTS)
def test_where_colours_stand_for_something_a_drawing_has_no_others(name: str) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    for style in dataset_generator.styles:
        image, text = dataset_generator.draw(11, style)
        if named := domain(name).colours(text):
            assert {colour for _, colour in image.getcolors(1 << 16) or ()} <= set(named.values())


@pytest.mark.parametrize("name", ARTISTS)
def test_a_written_dataset_is_found_by_a_format_and_can_be_made_larger(name: str, tmp_path: Path) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    dataset_generator.write_dataset(tmp_path, 2, seed=3)
    dataset_generator.write_dataset(tmp_path, 3, seed=3)
    options = format_options(PrepareConfig())
    items = list(choose_format(tmp_path, "auto", options).format.read(tmp_path, options))
    assert len([item for item in items if item.problem is None and item.caption]) == 3


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_finds_nothing_wrong_with_what_its_artist_drew_and_told(name: str) -> None:
    dataset_generator, verifier = domain(name).dataset_generator, domain(name).verifier
    assert dataset_generator is not None
    assert verifier is not None
    for seed in range(6):
        for style in dataset_generator.styles:
            image, text = dataset_generator.draw(seed, style)
            for told in (text, *(dataset_generator.paraphrase(text, number) for number in range(4))):
                assert verifier.check(told) == []
                assert verifier.formal(told)[0] == told
                assert not verifier.unread(told)
                receipt = verifier.verify(image, told)
                assert receipt.complete
                assert (verifier.repair_mask(image, told) is None) == (not receipt.extras)
            assert receipt.disorder == 0


@pytest.mark.parametrize("name", ARTISTS)
def test_an_artist_has_a_usual_style_and_names_the_known_ones(name: str) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    assert dataset_generator.draw(1, "")[1] == dataset_generator.draw(1, dataset_generator.styles[0])[1]
    with pytest.raises(UserError, match="unknown style"):
        dataset_generator.draw(1, "zzz")


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_tells_of_a_hopeless_text_instead_of_raising(name: str) -> None:
    verifier = domain(name).verifier
    assert verifier is not None
    assert contract(name).hopeless
    assert all(verifier.check(text) for text in contract(name).hopeless)


@pytest.mark.parametrize("name", ARTISTS)
def test_a_text_told_otherwise_states_no_new_facts(name: str) -> None:
    dataset_generator = domain(name).dataset_generator
    assert dataset_generator is not None
    for seed in range(4):
        text = dataset_generator.draw(seed, "")[1]
        facts = set(dataset_generator.facts(text))
        assert all(
            set(dataset_generator.facts(dataset_generator.paraphrase(text, number))) <= facts for number in range(6)
        )
        assert all(set(dataset_generator.facts(part)) <= facts for part in text.split("\n\n"))
