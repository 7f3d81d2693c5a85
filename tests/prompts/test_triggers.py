"""Trigger words as whole words: found, taken out, put first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.prompts.triggers import has_trigger, with_trigger_first, without_trigger


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "anistyle, a cat"),
        ("a cat, anistyle", "anistyle, a cat"),
        ("a cat, anistyle, on a chair", "anistyle, a cat, on a chair"),
        ("anistyle, a cat", "anistyle, a cat"),
        ("anistyle a cat", "anistyle a cat"),
        ("anistyles of a cat", "anistyle, anistyles of a cat"),
        ("  anistyle ", "anistyle"),
        ("", "anistyle"),
        ("a cat\n\nanistyle", "anistyle, a cat"),
    ],
)
def test_a_caption_begins_with_its_trigger_and_loses_nothing_else(text: str, expected: str) -> None:
    assert with_trigger_first(text, "anistyle") == expected


@given(st.text("ab ,.\n", max_size=30), st.sampled_from(["ani", "a+b", "(x)", "é"]))
def test_putting_a_trigger_first_twice_changes_nothing_more(text: str, trigger: str) -> None:
    once = with_trigger_first(text, trigger)
    assert once.startswith(trigger)
    assert has_trigger(once, trigger)
    assert with_trigger_first(once, trigger) == once
    assert not has_trigger(without_trigger(once, trigger), trigger)


def test_without_a_trigger_word_a_text_only_loses_its_outer_white_space() -> None:
    assert with_trigger_first(" a cat ", "") == "a cat"
