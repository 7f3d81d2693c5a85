"""Structured texts cut for windows: whole sentences, the counts in one piece, and nothing lost whatever the text is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.sections import sections_of
from loraloom.extensions.domains.floorplan.text.spec import Spec, print_spec, spec_of
from loraloom.protocols.domain import Section
from tests.extensions.domains.floorplan.strategies import specs
from tests.support.images import shared_data

pieces = st.sampled_from(
    ["[Number and Type of Rooms]", "[Connection Between Rooms]", "[x", "]", "[]", ". ", ".", "\n", "\r\n", "\u2028", " ",
     "kitchen #1 and bedroom #1 are connected.", "The floorplan have 1 kitchen, 2 bedroom", "! ", "1.5"]
)  # fmt: skip


@given(st.text() | st.lists(pieces).map("".join))
def test_the_parts_joined_by_blanks_are_the_caption_up_to_white_space(caption: str) -> None:
    parts = [part for section in sections_of(caption) for part in (section.header, *section.sentences)]
    assert " ".join(part for part in parts if part).split() == caption.split()


@given(specs)
def test_both_forms_of_a_text_have_the_same_sections(spec: Spec) -> None:
    text = print_spec(spec)
    sections = sections_of(text)
    assert sections == sections_of(" ".join(text.split()))
    expected = {
        "[Number and Type of Rooms]": None if spec.counts is None else 1,
        "[Connection Between Rooms]": None if spec.connections is None else len(spec.connections),
        "[Positional Relationship Between Rooms]": None if spec.positions is None else len(spec.positions),
    }
    found = {section.header: len(section.sentences) for section in sections[1:]}
    assert found == {header: length for header, length in expected.items() if length is not None}


def test_a_drawn_plan_has_its_header_its_counts_and_its_sentences() -> None:
    spec = spec_of(synthesise(3).plan)
    text = print_spec(spec)
    first, counts, *_ = sections_of(text)
    assert first == Section("", ("SJH-Style FloorPlan Generation",))
    assert counts.header == "[Number and Type of Rooms]"
    assert counts.sentences == (text.splitlines()[2],)


def test_other_texts_are_cut_at_headers_periods_and_lines() -> None:
    text = (
        "a plan\nin two lines. [Rooms] one kitchen. two\nbaths [glued]x [Connection Between Rooms] kitchen #1\nand more"
    )
    assert sections_of(text) == [
        Section("", ("a plan", "in two lines.")),
        Section("[Rooms]", ("one kitchen.", "two", "baths [glued]x")),
        Section("[Connection Between Rooms]", ("kitchen #1 and more",)),
    ]
    assert sections_of(" \n") == []
    assert sections_of("[Empty]") == [Section("[Empty]", ())]


@pytest.mark.parametrize(("number", "sentences"), [(0, [1, 1, 7, 9]), (1, [1, 1, 7, 10]), (3, [1, 1, 6, 4])])
def test_real_texts(number: int, sentences: list[int]) -> None:
    text = (shared_data("sjh") / f"{number}.txt").read_text(encoding="utf-8")
    assert [len(section.sentences) for section in sections_of(text)] == sentences
