"""Long prompts are cut at sentence borders, nothing is lost silently, and counts are the tokenizer's own."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom import plugins
from loraloom.config.run import PromptMethod
from loraloom.prompts.report import METHODS
from loraloom.prompts.windows import plan_prompt
from loraloom.utils.errors import UserError

from .conftest import WordText

FREETEXT = plugins.load("domains", "freetext")
PLAN = "Title of all\n[Rooms]\na b c d. e f g h. i j k l.\n[Doors]\nm n o p. q r s t."


def test_a_short_prompt_is_one_window_for_every_method(words: WordText) -> None:
    for method in METHODS:
        plan = plan_prompt("a b c. d e f.", words, FREETEXT, method)
        assert [window.ids for window in plan.windows] == [tuple(words.tokenize("a b c. d e f."))]
        assert plan.lost == ()


def test_a_window_that_starts_inside_a_section_repeats_its_header(words: WordText) -> None:
    plan = plan_prompt(PLAN, words, FREETEXT, "attention")
    texts = [words.detokenize(window.ids) for window in plan.windows]
    assert texts == ["Title of all [Rooms] a b c d.", "[Rooms] e f g h. i j k l.", "[Doors] m n o p. q r s t."]


def test_sentences_are_never_split_when_they_fit_a_window(words: WordText) -> None:
    plan = plan_prompt(PLAN, words, FREETEXT, "attention")
    joined = [words.detokenize(window.ids) for window in plan.windows]
    for sentence in ("a b c d.", "e f g h.", "i j k l.", "m n o p.", "q r s t."):
        assert any(sentence in text for text in joined)


def test_truncate_names_what_it_loses(words: WordText) -> None:
    plan = plan_prompt(PLAN, words, FREETEXT, "truncate")
    assert len(plan.windows) == 1
    assert plan.lost_tokens == plan.num_tokens - 10
    assert plan.lost[0].endswith("q r s t.")


def test_smart_keeps_telling_sentences_and_names_the_rest(words: WordText) -> None:
    text = "x x x x x. x x x x x. the red house stands here. x x x x x."
    plan = plan_prompt(text, words, FREETEXT, "smart")
    assert "red house" in words.detokenize(plan.windows[0].ids)
    assert len(plan.windows[0]) <= 10
    assert plan.lost_tokens == sum(len(words.tokenize(lost)) for lost in plan.lost) > 0


def test_too_many_windows_is_an_error_that_says_how_many(words: WordText) -> None:
    with pytest.raises(UserError, match=r"windows of 10.*at most 2"):
        plan_prompt(PLAN, words, FREETEXT, "attention", max_windows=2)


def test_weights_follow_their_words_into_the_windows(words: WordText) -> None:
    plan = plan_prompt(PLAN.replace("q r", "(q r:1.5)"), words, FREETEXT, "attention", weighting=True)
    weights = {
        words.words[id_]: weight
        for window in plan.windows
        for id_, weight in zip(window.ids, window.weights, strict=True)
    }
    assert {word for word, weight in weights.items() if weight != 1} == {"q", "r"}


SENTENCE = st.lists(st.sampled_from(["ab", "cde", "f", "gh,", "ijk"]), min_size=1, max_size=25).map(
    lambda ws: " ".join(ws) + "."
)


@settings(max_examples=60)
@given(st.lists(SENTENCE, min_size=1, max_size=8))
def test_all_windows_together_carry_every_token_in_order(sentences: list[str]) -> None:
    words = WordText()
    prompt = " ".join(sentences)
    plan = plan_prompt(prompt, words, FREETEXT, "attention", max_windows=1000)
    assert [id_ for window in plan.windows for id_ in window.ids] == words.tokenize(prompt)
    assert all(len(window) <= 10 for window in plan.windows)
    assert plan.lost == ()


@settings(max_examples=40)
@given(st.text(max_size=400), st.sampled_from(METHODS), st.booleans())
def test_any_text_can_be_planned(prompt: str, method: PromptMethod, weighting: bool) -> None:
    words = WordText()
    plan = plan_prompt(prompt, words, FREETEXT, method, max_windows=10_000, weighting=weighting)
    assert plan.windows
    assert all(len(window) <= 10 and len(window.ids) == len(window.weights) for window in plan.windows)


@pytest.mark.parametrize(("name", "count"), [("0", 231), ("1", 246), ("3", 164)])
def test_real_structured_texts_have_their_exact_clip_counts(
    shared_data: Path, clip_text, name: str, count: int
) -> None:
    text = (shared_data / "sjh" / f"{name}.txt").read_text(encoding="utf-8")
    plan = plan_prompt(text, clip_text, FREETEXT, "attention")
    assert plan.num_tokens == count
    assert all(len(window) <= 75 for window in plan.windows)
    kept = " ".join(clip_text.detokenize(window.ids) for window in plan.windows)
    for line in text.splitlines():
        words = clip_text.detokenize(clip_text.tokenize(line))
        assert words in kept
    assert clip_text.detokenize(plan.windows[-1].ids).startswith("[ positional relationship between rooms ]")


def test_the_clip_tokenizer_says_what_openai_published(clip_text) -> None:
    assert clip_text.window(clip_text.tokenize("a photo of a cat"))[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
