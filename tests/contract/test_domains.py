"""What every domain promises, whoever wrote it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.detect import choose_format, format_options
from loraloom.protocols.domain import Domain
from loraloom.utils.errors import UserError

DOMAINS = plugins.names("domains")
ARTISTS = [name for name in DOMAINS if plugins.load("domains", name).artist is not None]
JUDGES = [name for name in ARTISTS if plugins.load("domains", name).judge is not None]


def domain(name: str) -> Domain:
    return plugins.load("domains", name)


def joined(name: str, caption: str) -> str:
    parts = [part for section in domain(name).sections(caption) for part in (section.header, *section.sentences)]
    return " ".join(" ".join(parts).split())


@pytest.mark.parametrize("name", DOMAINS)
@given(caption=st.text(alphabet="ab #1.[]!?,\n 가", max_size=60))
@settings(max_examples=60)
def test_sections_hold_the_whole_caption(name: str, caption: str) -> None:
    assert joined(name, caption) == " ".join(caption.split())


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_named_as_its_folder(name: str) -> None:
    assert domain(name).name == name


@pytest.mark.parametrize("name", ARTISTS)
def test_a_drawing_is_decided_by_seed_and_style(name: str) -> None:
    artist = domain(name).artist
    assert artist is not None
    for style in artist.styles:
        one, text = artist.draw(11, style)
        other, same = artist.draw(11, style)
        assert one.size == (256, 256)
        assert one.mode == "RGB"
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert text == same != ""
        assert joined(name, text) == " ".join(text.split())


@pytest.mark.parametrize("name", ARTISTS)
def test_a_domain_finds_nothing_wrong_with_an_image_that_its_artist_drew(name: str) -> None:
    artist = domain(name).artist
    assert artist is not None
    for style in artist.styles:
        assert domain(name).check_image(artist.draw(11, style)[0]) is None


@pytest.mark.parametrize("name", ARTISTS)
def test_where_colours_stand_for_something_a_drawing_has_no_others(name: str) -> None:
    artist = domain(name).artist
    assert artist is not None
    for style in artist.styles:
        image, text = artist.draw(11, style)
        if named := domain(name).colours(text):
            assert {colour for _, colour in image.getcolors(1 << 16) or ()} <= set(named.values())


@pytest.mark.parametrize("name", ARTISTS)
def test_a_written_dataset_is_found_by_a_format_and_can_be_made_larger(name: str, tmp_path: Path) -> None:
    artist = domain(name).artist
    assert artist is not None
    artist.write_dataset(tmp_path, 2, seed=3)
    artist.write_dataset(tmp_path, 3, seed=3)
    options = format_options(PrepareConfig())
    items = list(choose_format(tmp_path, "auto", options).format.read(tmp_path, options))
    assert len([item for item in items if item.problem is None and item.caption]) == 3


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_finds_nothing_wrong_with_what_its_artist_drew_and_told(name: str) -> None:
    artist, judge = domain(name).artist, domain(name).judge
    assert artist is not None
    assert judge is not None
    for seed in range(6):
        for style in artist.styles:
            image, text = artist.draw(seed, style)
            for told in (text, *(artist.retell(text, number) for number in range(4))):
                assert judge.check(told) == []
                assert judge.formal(told)[0] == told
                assert not judge.unread(told)
                receipt = judge.judge(image, told)
                assert receipt.complete
                assert (judge.repair_mask(image, told) is None) == (not receipt.extras)
            assert receipt.disorder == 0


@pytest.mark.parametrize("name", ARTISTS)
def test_an_artist_has_a_usual_style_and_names_the_known_ones(name: str) -> None:
    artist = domain(name).artist
    assert artist is not None
    assert artist.draw(1, "")[1] == artist.draw(1, artist.styles[0])[1]
    with pytest.raises(UserError, match="unknown style"):
        artist.draw(1, "zzz")


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_tells_of_a_hopeless_text_instead_of_raising(name: str) -> None:
    judge = domain(name).judge
    assert judge is not None
    assert judge.check("[Number and Type of Rooms] The floorplan have 3 flying saucer")


@pytest.mark.parametrize("name", ARTISTS)
def test_a_text_told_otherwise_states_no_new_facts(name: str) -> None:
    artist = domain(name).artist
    assert artist is not None
    for seed in range(4):
        text = artist.draw(seed, "")[1]
        facts = set(artist.facts(text))
        assert all(set(artist.facts(artist.retell(text, number))) <= facts for number in range(6))
        assert all(set(artist.facts(part)) <= facts for part in text.split("\n\n"))
