"""The structured text: printing and parsing are each other's inverse, and nothing is lost on the way."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.extensions.domains.floorplan.plan import Position
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import (
    Spec,
    connection_sentence,
    parse_spec,
    position_sentence,
    print_spec,
    spec_of,
    upright,
    with_counts,
    without,
)
from loraloom.extensions.domains.floorplan.vocabulary import STYLES, RoomId
from loraloom.utils.errors import UserError
from tests.extensions.domains.floorplan.strategies import rooms, specs
from tests.support.images import shared_data

LIVING, MASTER = RoomId("living room", 1), RoomId("master room", 1)


def words(text: str) -> Counter[str]:
    """Every word and number of a text but the header's, whatever the case and the signs between them."""
    text = text.casefold()
    for style in STYLES.values():
        text = " ".join(text.split()).removeprefix(style.header.lower())
    text = re.sub(r"floorplan has\b", "floorplan have", text)
    return Counter(str(int(word)) if word.isdecimal() else word for word in re.findall(r"\d+|[^\W\d]+", text))


@given(specs)
def test_what_is_printed_is_parsed_back(spec: Spec) -> None:
    assert parse_spec(print_spec(spec)) == spec


@given(specs)
def test_the_one_line_form_is_the_file_form(spec: Spec) -> None:
    assert parse_spec(" ".join(print_spec(spec).split())) == spec


@pytest.mark.parametrize("number", [0, 1, 3])
def test_real_texts_come_back_byte_for_byte(number: int) -> None:
    text = (shared_data("sjh") / f"{number}.txt").read_text(encoding="utf-8")
    assert print_spec(parse_spec(text)) == text
    assert print_spec(parse_spec(" ".join(text.split()))) == text


def test_the_file_form_has_the_blanks_of_the_real_files() -> None:
    spec = Spec(
        style="sjh",
        counts=(("living room", 1), ("bedroom", 2)),
        connections=(),
        positions=(Position(MASTER, "left-of", LIVING),),
    )
    assert print_spec(spec) == (
        "SJH-Style FloorPlan Generation \n[Number and Type of Rooms] \nThe floorplan have 1 living room, 2 bedroom\n\n"
        "[Connection Between Rooms]\n\n[Positional Relationship Between Rooms]\nmaster room #1 is left-of living room #1.\n"
    )


def parsed_or_refused(text: str) -> Spec | None:
    """The spec; None when the text is refused as a user's mistake, which is the only way to refuse it."""
    try:
        return parse_spec(text)
    except UserError:
        return None


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    parsed_or_refused(text)


grammar = st.sampled_from(
    ["[Number and Type of Rooms]", "[Connection Between Rooms]", "[Positional Relationship Between Rooms]", "[", "]", "#",
     "The floorplan have", "1 living room", ", 2 bedroom", "bedroom #1", "Kitchen #2", " and ", " are connected", ".", " is ",
     "left-of", "above", "SJH-Style FloorPlan Generation", "\n", " ", "٣", "#0", "#1000", "attic #1", "..", "1.5"]
)  # fmt: skip


@given(st.lists(grammar).map("".join) | st.lists(grammar).map(" ".join))
def test_pieces_of_the_grammar_are_kept_or_refused(text: str) -> None:
    spec = parsed_or_refused(text)
    assert spec is None or words(print_spec(spec)) == words(text)


def test_a_changed_text_is_kept_whole_or_refused() -> None:
    texts = [print_spec(spec_of(synthesise(seed).plan)) for seed in (1, 2)]
    check_changed(texts)


def test_a_changed_real_text_is_kept_whole_or_refused() -> None:
    check_changed([(shared_data("sjh") / f"{n}.txt").read_text(encoding="utf-8") for n in (0, 1, 3)])


def check_changed(texts: list[str]) -> None:
    """Cut, repeat or overwrite a stretch of a text: its words are all in the result, or it is refused."""

    @settings(max_examples=80)
    @given(st.data())
    def check(data: Any) -> None:
        text = data.draw(st.sampled_from(texts))
        for _ in range(data.draw(st.integers(1, 2))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(len(text), start + 60)))
            new = data.draw(st.sampled_from(["", text[start:end] * 2, ".", " ", "\n", ", ", "#1", "and", "[x]"]))
            text = text[:start] + new + text[end:]
        spec = parsed_or_refused(text)
        assert spec is None or words(print_spec(spec)) == words(text)

    check()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[Connection Between Rooms] attic #1 and kitchen #1 are connected.", "attic"),
        ("[Connection Between Rooms] kitchen #0 and bedroom #1 are connected.", "kitchen #0"),
        ("[Connection Between Rooms] kitchen #1 and bedroom #1 are.", "kitchen #1 and bedroom #1 are"),
        ("[Connection Between Rooms]\nkitchen #1 and bedroom #1 are connected\nkitchen #1 and bedroom #2 are connected.",
         "kitchen #1 and bedroom #1 are connected kitchen"),
        ("[Positional Relationship Between Rooms] kitchen #1 is leftof bedroom #1.", "left-of"),
        ("[Number and Type of Rooms] The floorplan have 1 kitchen, 2 kitchen", "twice"),
        ("[Number and Type of Rooms] The floorplan have many", "many"),
        ("[Rooms] x", "[Rooms]"),
        ("A plan [Connection Between Rooms]", "A plan"),
        ("[Connection Between Rooms] [Connection Between Rooms]", "duplicate"),
        ("", "no section"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_sentence(text: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(text)
    assert told in str(error.value)


@given(rooms, rooms, st.sampled_from(["left-of", "right-above"]))
def test_an_upright_position_says_the_same(first: RoomId, second: RoomId, direction: str) -> None:
    position = Position(first, direction, second)
    assert upright(position).subject.rank >= upright(position).object.rank
    assert upright(upright(position)) == upright(position)
    assert {upright(position).subject, upright(position).object} == {first, second}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["a #1 and{}x.", "a{}x", "a #1{}and b #1", "a #1 is{}x.", "{}["])
@pytest.mark.parametrize("section", ["[Connection Between Rooms]", "[Positional Relationship Between Rooms]"])
def test_no_text_takes_long(section: str, text: str) -> None:
    for filling in (" ", " a", "\n", ". "):
        parsed_or_refused(f"{section} {text.format(filling * 20_000)}")


@given(specs, st.data())
def test_a_text_without_some_sentences_says_all_the_others_and_is_written_as_it_was(spec: Spec, data: Any) -> None:
    kept = [
        None if said is None else tuple(one for one in said if data.draw(st.booleans()) or said.count(one) > 1)
        for said in (spec.connections, spec.positions)
    ]
    left_out = {connection_sentence(pair) for pair in spec.connections or () if pair not in (kept[0] or ())}
    left_out |= {position_sentence(one) for one in spec.positions or () if one not in (kept[1] or ())}
    text = print_spec(spec)
    shorter = without(text, left_out)
    assert parse_spec(shorter) == replace(spec, connections=kept[0], positions=kept[1])
    assert shorter.split() == _without_lines(text, left_out).split()


def _without_lines(text: str, lines: set[str]) -> str:
    return "\n".join(line for line in text.split("\n") if line not in lines)


def test_a_sentence_is_left_out_however_it_is_written() -> None:
    text = "[Connection Between Rooms] Living  Room # 1 and kitchen #1\nare connected. kitchen #1 and bathroom #1 are connected"
    shorter = without(text, {"living room #1 and kitchen #1 are connected."})
    assert parse_spec(shorter).connections == ((RoomId("kitchen", 1), RoomId("bathroom", 1)),)
    assert parse_spec(without(shorter, {"kitchen #1 and bathroom #1 are connected."})).connections == ()


@given(specs, st.integers(0, 9))
def test_other_counts_change_the_counts_alone(spec: Spec, count: int) -> None:
    wanted = {kind: count for kind, _ in (spec.counts or ())[::2]}
    counted = None if spec.counts is None else tuple((kind, wanted.get(kind, old)) for kind, old in spec.counts)
    assert parse_spec(with_counts(print_spec(spec), wanted)) == replace(spec, counts=counted)
