"""Nothing that a prompt says is dropped or read as text without one counted line; `strict` makes an error of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom import plugins
from loraloom.config.run import PromptMethod
from loraloom.prompts.encoder import PromptEncoder
from loraloom.prompts.notes import Losses, cut_line, cut_lines, foreign_syntax, syntax_line
from loraloom.utils.errors import UserError

from .conftest import WordText


def encoder(method: PromptMethod = "attention", domain: str = "freetext") -> PromptEncoder:
    return PromptEncoder(text=WordText(), domain=plugins.load("domains", domain), method=method, max_windows=1 << 10)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a dog BREAK a cat", ["BREAK"]),
        ("BREAK", ["BREAK"]),
        (" AND BREAK, BREAK ", ["BREAK", "BREAK", "AND"]),
        ("a dog AND a cat", ["AND"]),
        ("a dog AND_SALT a cat", ["AND_SALT"]),
        ("a dog <lora:x:0.8>", ["<lora:x:0.8>"]),
        ("<lora:a b:1:0.5> and <lyco:y>", ["<lora:a b:1:0.5>", "<lyco:y>"]),
        ("<hypernet:ink:0.4> ink", ["<hypernet:ink:0.4>"]),
        ("a [dog:cat:0.5]", ["[dog:cat:0.5]"]),
        ("a [dog:10] [cat::.3]", ["[dog:10]", "[cat::.3]"]),
        ("a [red|blue] dog", ["[red|blue]"]),
        ("a [blurry] dog", ["[blurry]"]),
        ("a {red|blue} dog", ["{red|blue}"]),
        ("a __colour__ dog", ["__colour__"]),
        ("embedding:easynegative, blurry", ["embedding:easynegative,"]),
        ("a dog --ar 16:9 --no cats", ["--ar", "--no"]),
        ("a dog\nNegative prompt: cats\nSteps: 20, Sampler: Euler a", ["Negative prompt:", "Steps: 20, Sampler:"]),
    ],
)
def test_syntax_of_other_programs_is_found(prompt: str, parts: list[str]) -> None:
    assert foreign_syntax(prompt, encoder(), weighting=True) == parts


@pytest.mark.parametrize(
    "prompt",
    [
        "a dog and a cat, at 10:30 (noon)",
        "a (red:1.3) dog, ((big)), \\(a\\)",
        "[Rooms]\ntwo bedrooms",
        "BREAKFAST IN BRANDENBURG AND BERLIN",
        "a daybreak, sand, 3 < 4 > 2, well-known -- and so on",
        "",
    ],
)
def test_plain_texts_weights_and_headers_are_no_foreign_syntax(prompt: str) -> None:
    assert foreign_syntax(prompt, encoder(), weighting=True) == []


def test_headers_of_a_one_line_plan_are_no_foreign_syntax() -> None:
    text = "[Number and type of rooms] 2 bedrooms. [Connection between rooms] The kitchen is next to the bath."
    assert foreign_syntax(text, encoder(domain="floorplan"), weighting=True) == []


def test_weights_are_text_in_captions_and_said_there_only() -> None:
    assert foreign_syntax("a (red:1.3) dog", encoder(), weighting=False) == ["(red:1.3)"]
    assert foreign_syntax("at noon (10:30), scale (1:2), (see: 3 dogs)", encoder(), weighting=False) == []


@given(st.text())
def test_any_text_is_looked_through(text: str) -> None:
    foreign_syntax(text, encoder(), weighting=False)


def test_one_line_counts_texts_and_shows_what_was_found() -> None:
    texts = ["a BREAK b", "a BREAK b", "c BREAK <lora:x:1>", "plain"]
    line = syntax_line(texts, encoder(), weighting=True)
    assert line == (
        "note: syntax of other programs is read as text here, in 2 of 3 prompts: 'BREAK' (2), '<lora:x:1>' (1); "
        "--adapter loads an adapter"
    )
    assert syntax_line(["plain"], encoder(), weighting=True) is None


@pytest.mark.parametrize("method", ["truncate", "smart"])
def test_a_text_that_is_cut_in_many_places_is_one_line_with_the_count(method: PromptMethod) -> None:
    """161 sentences were left out of one prompt, and 161 warnings began with the same words."""
    line = cut_line(encoder(method), "The dog runs far. " * 161, weighting=True, what="the negative prompt ")
    assert line is not None
    assert "\n" not in line
    assert line.startswith(f"warning: {method} does not read all of the negative prompt 'The dog runs far.")
    assert "of 644 tokens are left out" in line


@pytest.mark.parametrize("method", ["attention", "mean", "max", "weighted"])
def test_methods_that_read_all_say_nothing(method: PromptMethod) -> None:
    assert cut_line(encoder(method), "The dog runs far. " * 161, weighting=True) is None


def test_a_line_is_said_once() -> None:
    said: list[str] = []
    losses = Losses(said.append)
    losses.add("warning: a", "note: b", "warning: a")
    losses.add("note: b")
    losses.check()
    assert said == ["warning: a", "note: b"]


def test_strict_makes_one_error_of_all_lines_and_says_none() -> None:
    said: list[str] = []
    losses = Losses(said.append, strict=True)
    losses.check()
    losses.add(*(f"warning: {number}" for number in range(30)))
    with pytest.raises(UserError, match=r"(?s)--strict is on.*\n  0\n.*\n  19\n  and 10 more\n"):
        losses.check()
    assert not said


@given(st.integers(1, 60))
def test_many_prompts_of_equal_beginnings_are_counted(count: int) -> None:
    """40 long prompts that began alike gave two warnings and no number."""
    prompts = [f"{'The dog runs far. ' * 40} It ends {number}." for number in range(count)]
    said: list[str] = []
    losses = Losses(said.append)
    losses.add(*cut_lines(encoder("truncate"), [*prompts, *prompts, "a dog"], weighting=True))
    counted = [line for line in said if "not read in full" in line]
    left = count - (len(said) - len(counted))
    assert len(said) <= 3
    assert counted == (
        [] if not left else [f"warning: {left:,} prompt{'s more are' if left > 1 else ' more is'} not read in full"]
    )


def test_only_prompts_that_were_given_are_counted() -> None:
    """The empty negative prompt made "in 1 of 2 prompts" of one prompt."""
    line = syntax_line(["a BREAK b", "", "  "], encoder(), weighting=True)
    assert line is not None
    assert "in 1 of 1 prompts" in line


def test_a_method_that_reads_nothing_says_so() -> None:
    """`smart` drops a sentence that fills more than a window, here the whole prompt."""
    line = cut_line(encoder("smart"), "dog " * 100, weighting=True)
    assert line is not None
    assert line.startswith("warning: smart reads nothing of 'dog dog")
    assert "all 100 tokens are left out" in line
