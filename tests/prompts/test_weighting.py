"""Emphasis is read as users of A1111 write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.prompts.weighting import parse, unweighted
from loraloom.utils.errors import UserError


def weights_of(prompt: str) -> dict[str, float]:
    """Weight of every word of the plain text, by its first letter."""
    parsed = parse(prompt)
    words: dict[str, float] = {}
    position = 0
    for word in parsed.text.split():
        position = parsed.text.index(word, position)
        words[word] = round(parsed.weights[position], 4)
    return words


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red house", {"a": 1, "red": 1, "house": 1}),
        ("a (red) house", {"a": 1, "red": 1.1, "house": 1}),
        ("a ((red)) house", {"a": 1, "red": 1.21, "house": 1}),
        ("[Rooms] a (red) house", {"[Rooms]": 1, "a": 1, "red": 1.1, "house": 1}),
        ("a (red:1.3) house", {"a": 1, "red": 1.3, "house": 1}),
        ("(a (red:2) house:0.5)", {"a": 0.5, "red": 1.0, "house": 0.5}),
        (r"a \(red\) house", {"a": 1, "(red)": 1, "house": 1}),
        ("a (red house", {"a": 1, "(red": 1, "house": 1}),
        ("at 10:30 (noon)", {"at": 1, "10:30": 1, "noon": 1.1}),
    ],
)
def test_emphasis_weighs_what_stands_in_the_brackets(prompt: str, expected: dict[str, float]) -> None:
    assert weights_of(prompt) == expected


@given(st.text())
def test_any_text_parses_and_every_character_has_a_weight(prompt: str) -> None:
    parsed = parse(prompt)
    assert len(parsed.text) == len(parsed.weights)


@given(st.text(alphabet=st.characters(blacklist_characters="()\\")))
def test_text_without_brackets_is_left_alone(prompt: str) -> None:
    assert parse(prompt) == unweighted(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 2000 + "dog" + ")" * 2000,
        "(dog:1000)",
        "(dog:-1e9) (cat:-123456)",
        "((dog:90):2)",
        "(" * 60 + "a" + ")" * 60,
    ],
)
def test_a_weight_that_draws_noise_is_refused(prompt: str) -> None:
    """2,000 nested brackets made a weight of 5e82, and the image came out as NaN."""
    with pytest.raises(UserError, match=r"nests brackets too deeply|a weight in the prompt is out of range"):
        parse(prompt)


@pytest.mark.parametrize(
    "prompt", ["(" * 100_000, ")" * 100_000, "(" + " " * 100_000 + ":)", "(" + "a: " * 50_000 + ")"]
)
def test_long_prompts_are_read_in_linear_time(prompt: str) -> None:
    """A search for the colon from the left took minutes; the suite's own limit of time would end this test."""
    assert len(parse(prompt).text) >= 100_000
