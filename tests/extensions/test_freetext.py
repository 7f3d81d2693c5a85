"""Cutting captions at their natural borders, and knowing which may be mirrored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.extensions.domains.freetext import DOMAIN
from loraloom.protocols.domain import Domain, Section
from tests.support.images import shared_data

pieces = st.sampled_from(
    ["a dog", ".", "! ", "? ", "\n", "[Rooms]", " [x y] \n", "  ", "\r\n", "v1.5", "\u2028", "왼쪽."]
)


def joined(sections: list[Section]) -> str:
    return " ".join(part for section in sections for part in (section.header, *section.sentences) if part)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
def test_the_parts_joined_by_blanks_are_the_caption_up_to_white_space(caption: str) -> None:
    assert joined(DOMAIN.sections(caption)).split() == caption.split()


def test_headers_start_sections_and_a_first_line_is_the_preamble() -> None:
    domain: Domain = DOMAIN
    caption = "A Plan\n[Rooms]\none kitchen. two baths! Is that all?\n\n[Positions]\nbath is v1.5 north\nlast"
    assert domain.sections(caption) == [
        Section("", ("A Plan",)),
        Section("[Rooms]", ("one kitchen.", "two baths!", "Is that all?")),
        Section("[Positions]", ("bath is v1.5 north", "last")),
    ]
    assert domain.sections(" \n") == []
    assert domain.sections("[Empty]") == [Section("[Empty]", ())]


def test_a_real_structured_text_has_its_sections() -> None:
    text = (shared_data("sjh") / "0.txt").read_text(encoding="utf-8")
    sections = DOMAIN.sections(text)
    assert [section.header for section in sections] == [
        "", "[Number and Type of Rooms]", "[Connection Between Rooms]", "[Positional Relationship Between Rooms]",
    ]  # fmt: skip
    assert [len(section.sentences) for section in sections] == [1, 1, 7, 9]


@pytest.mark.parametrize(
    "caption",
    ["the left hand", "a room left-of it", "RIGHT", "the leftmost", "turning clockwise", "counterclockwise",
     "an east wing", "north-western", "with text on it", "a sign that reads open", "the letters abc", 'saying "hello"',
     "왼쪽에 있는 방", "오른쪽", "시계 방향", "글자가 있는", "左边", "bath_left"],
)  # fmt: skip
def test_a_caption_that_tells_left_from_right_may_not_be_mirrored(caption: str) -> None:
    assert DOMAIN.mirrored(caption) is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red car on the left", "a red car on the right"),
        ("A vase on a table. Light falls from the left.", "A vase on a table. Light falls from the right."),
        ("a dog to the right of a cat, sky", "a dog to the left of a cat, sky"),
        ("On the Left side a tree, on the right half a hut", "On the Right side a tree, on the left half a hut"),
        ("in the upper left corner", "in the upper right corner"),
    ],
)
def test_sides_of_the_image_are_exchanged_in_the_mirrored_caption(caption: str, expected: str) -> None:
    assert DOMAIN.mirrored(caption) == expected
    assert DOMAIN.mirrored(expected) == caption


@pytest.mark.parametrize("caption", ["on the left hand", "on the right track", "to the left-most", "on the left, text"])
def test_a_phrase_that_only_looks_like_a_side_is_not_exchanged(caption: str) -> None:
    assert DOMAIN.mirrored(caption) is None


@pytest.mark.parametrize(
    "caption",
    ["a photo of a dog", "bright light", "a feast", "wood texture, fine textile", "the kitchen is above the bath",
     "a bald man's password-free sword", "강아지 사진", "cleft rock", ""],
)  # fmt: skip
def test_a_caption_without_sides_is_the_mirrored_images_too(caption: str) -> None:
    assert DOMAIN.mirrored(caption) == caption


def test_a_real_plan_may_not_be_mirrored() -> None:
    assert DOMAIN.mirrored((shared_data("sjh") / "0.txt").read_text(encoding="utf-8")) is None
