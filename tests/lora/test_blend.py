"""The text of a blend says what it looks like it says, is written back as it was read, and names what it does not read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.lora.blend import (
    REST,
    Blend,
    Term,
    make_blend,
    name_of_place,
    parse_blend,
    parse_lora_option,
    parse_term,
    split_tags,
)
from loraloom.utils.errors import UserError

NUMBERS = st.integers(-1000, 1000).map(lambda n: n / 10)
FRACTIONS = st.integers(0, 99).map(lambda n: n / 100)
NAMES = st.from_regex(r"[a-z][a-z0-9_.\-]{0,8}", fullmatch=True)
BLOCKS = st.from_regex(r"[a-z]+(\.[0-9a-z_]+){0,2}", fullmatch=True)
SCALES = NUMBERS | st.dictionaries(BLOCKS, NUMBERS, min_size=1, max_size=3)
BOXES = st.tuples(FRACTIONS, FRACTIONS).map(lambda p: (p[0], p[1], 1.0, 1.0))
TERMS = st.builds(
    lambda name, scale, region, start: Term(name=name, scale=scale, region=region, start=start),
    NAMES,
    SCALES,
    st.none() | BOXES,
    FRACTIONS,
)


@given(st.lists(TERMS, max_size=4, unique_by=lambda term: term.name), st.sampled_from(["sum", "switch"]))
def test_a_blend_is_written_and_read_back(terms: list[Term], method: str) -> None:
    blend = make_blend(tuple(terms), method, 3 if method == "switch" else 1)
    if terms:
        assert parse_blend(str(blend)) == blend
    else:
        assert parse_blend("") == Blend()


@pytest.mark.parametrize(
    ("text", "place", "name", "scale"),
    [
        ("runs/anime:0.6", "runs/anime", "anime", 0.6),
        ("runs/anime", "runs/anime", "anime", 1.0),
        (r"C:\runs\anime", r"C:\runs\anime", "anime", 1.0),
        (r"C:\runs\anime:0.25", r"C:\runs\anime", "anime", 0.25),
        (r"face=C:\runs\anime:-1", r"C:\runs\anime", "face", -1.0),
        ("runs/a/checkpoints/step_0000100:1e-1", "runs/a/checkpoints/step_0000100", "a", 0.1),
        ("x/pytorch_lora_weights.safetensors:0.6", "x/pytorch_lora_weights.safetensors", "x", 0.6),
        ("runs/화풍:0.5", "runs/화풍", "화풍", 0.5),
        ("runs/a:0.8,up_blocks.1=0", "runs/a", "a", {REST: 0.8, "up_blocks.1": 0.0}),
        ("runs/a:text_encoder=0.2", "runs/a", "a", {"text_encoder": 0.2}),
    ],
)
def test_an_option_names_a_place_and_a_scale(text: str, place: str, name: str, scale: object) -> None:
    found, term = parse_lora_option(text)
    assert (found, term.name, term.scale) == (place, name, scale)


def test_a_term_takes_a_region_and_a_part_of_the_steps() -> None:
    term = parse_term("anime:0.8[0,0,0.5,1]@0.25-")
    assert term == Term(name="anime", scale=0.8, region=(0.0, 0.0, 0.5, 1.0), start=0.25)
    assert parse_term("anime[mask.png]@-0.5") == Term(name="anime", region=Path("mask.png"), end=0.5)
    assert [term.acts_at(step, 4) for step in range(4)] == [False, True, True, True]


def test_a_place_that_exists_is_a_place_whatever_it_looks_like(tmp_path: Path) -> None:
    odd = tmp_path / "a[1]@0-1=b"
    odd.mkdir()
    assert parse_lora_option(str(odd))[0] == str(odd)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("anime:strong", "not a scale"),
        ("anime:", "not a scale"),
        ("anime:nan", "not a scale"),
        ("anime:1000", "not a scale"),
        ("anime:=1", "not a scale"),
        ("anime:a=1,a=2", "two scales for one block"),
        ("anime[0,0,2,1]", "not a region"),
        ("anime[0.5,0,0.5,1]", "not a region"),
        ("anime[]", "an empty region"),
        ("anime@0.5-0.5", "not a range of steps"),
        ("anime@0-2", "not a range of steps"),
        (":0.5", "without a name"),
        ("anime:1 + anime:0.5", "two LoRAs of one name"),
        ("turbo: anime:1", "unknown method"),
        ("klora: anime:1", "klora blends two"),
        ("composite: a[0,0,1,1] + b", "does not take regions"),
        ("switch(0): a + b", "number of steps"),
        ("a b:1", "not the name of a LoRA"),
    ],
)
def test_what_is_no_blend_is_named(text: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        parse_blend(text)


def test_tags_of_other_programs_are_taken_out_of_the_prompt() -> None:
    prompt, terms = split_tags("a cat <lora:anime:0.8>, in <lora:wc:0.5:1> a garden, <lora:plain>")
    assert prompt == "a cat , in a garden"
    assert terms == [
        Term(name="anime", scale=0.8),
        Term(name="wc", scale={"text_encoder": 0.5, REST: 1.0}),
        Term(name="plain"),
    ]
    assert split_tags("a  cat, ") == ("a  cat, ", [])
    with pytest.raises(UserError, match="not a scale"):
        split_tags("<lora:a:much>")
    with pytest.raises(UserError, match="one name"):
        split_tags("<lora:a:1> <lora:a:2>")


def test_each_method_evaluates_what_it_says() -> None:
    def names(text: str, step: int, num_steps: int = 4) -> list[tuple[str, float]]:
        found = parse_blend(text).evaluations(step, num_steps)
        return [("+".join(term.name for term in one.terms), one.share) for one in found]

    assert names("a + b", 0) == [("a+b", 1.0)]
    assert names("a@0-0.5 + b@0.5-1", 1) == [("a", 1.0)]
    assert names("a@0-0.5 + b@0.5-1", 2) == [("b", 1.0)]
    assert [names("switch(2): a + b", step, 6)[0][0] for step in range(6)] == ["a", "a", "b", "b", "a", "a"]
    assert names("composite: a + b", 0) == [("a", 0.5), ("b", 0.5)]
    assert names("a + b[0,0,0.5,1]", 0) == [("a", 1.0), ("a+b", 1.0)]
    assert names("", 0) == [("", 1.0)]
    assert parse_blend("a + b:0.5").is_constant
    assert parse_blend("switch: a").is_constant
    assert not parse_blend("switch: a + b").is_constant
    assert not parse_blend("a@0-0.5").is_constant


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_blend(text)
        parse_lora_option(text)
        split_tags(text)
    except UserError:
        pass


@given(st.text(min_size=1, max_size=20))
def test_every_place_has_a_name(place: str) -> None:
    assert name_of_place(place)
