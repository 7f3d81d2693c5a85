"""What is wrong with a text before anything is drawn: sound on plans that exist, and conflicts as small as promised."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from loraloom.extensions.domains.floorplan.plan import Position, direction
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.check import Problem, check_spec, check_text
from loraloom.extensions.domains.floorplan.text.spec import Spec, parse_spec, position_sentence, print_spec, spec_of
from loraloom.extensions.domains.floorplan.vocabulary import DIRECTIONS, OFFSETS, ROOM_TYPES, RoomId
from tests.extensions.domains.floorplan.strategies import specs
from tests.support.images import shared_data

ROOMS = [RoomId(kind, 1) for kind in ROOM_TYPES]


def positions_of(*sentences: str) -> tuple[Position, ...]:
    text = "[Positional Relationship Between Rooms] " + " ".join(f"{sentence}." for sentence in sentences)
    return parse_spec(text).positions or ()


def conflicts(positions: tuple[Position, ...]) -> list[Problem]:
    return [problem for problem in check_spec(Spec(positions=positions)) if problem.kind == "error"]


def possible(positions: tuple[Position, ...]) -> bool:
    """Whether points exist: the primal programme, written down independently."""
    rows: list[list[float]] = []
    for position in positions:
        x, y = OFFSETS[position.direction]
        middle = np.arctan2(y, x)
        for angle in (middle - np.pi / 8 + np.pi / 2, middle + np.pi / 8 - np.pi / 2):
            row = [0.0] * (2 * len(ROOMS))
            for room, sign in ((position.subject, -1), (position.object, 1)):
                row[2 * ROOMS.index(room)] += sign * np.cos(angle)
                row[2 * ROOMS.index(room) + 1] += sign * np.sin(angle)
            rows.append(row)
    bounds = (-1e5, 1e5)
    return not rows or linprog(np.zeros(2 * len(ROOMS)), A_ub=rows, b_ub=[-1.0] * len(rows), bounds=bounds).status == 0


@settings(max_examples=60)
@given(specs)
def test_any_spec_can_be_checked(spec: Spec) -> None:
    problems = check_spec(spec)
    text = print_spec(spec)
    for problem in problems:
        assert "\n" not in problem.message
        assert all(sentence in text for sentence in problem.sentences)
    assert [p.kind for p in problems] == sorted(p.kind for p in problems)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=8, unique=True))
def test_positions_of_points_that_exist_never_contradict(points: list[tuple[int, int]]) -> None:
    pairs = combinations(range(len(points)), 2)
    read = tuple(Position(ROOMS[b], direction(points[b], points[a]), ROOMS[a]) for a, b in pairs)
    assert not conflicts(read)


random_positions = st.lists(
    st.tuples(st.sampled_from(list(combinations(ROOMS[:5], 2))), st.sampled_from(DIRECTIONS)), min_size=2, max_size=7
).map(lambda found: tuple(dict.fromkeys(Position(b, word, a) for (a, b), word in found)))


@settings(max_examples=40)
@given(random_positions)
def test_a_conflict_is_found_if_there_is_one_and_is_as_small_as_promised(positions: tuple[Position, ...]) -> None:
    found = conflicts(positions)
    assert bool(found) != possible(positions)
    if found:
        by_sentence = {position_sentence(position): position for position in positions}
        conflict = tuple(by_sentence[sentence] for sentence in found[0].sentences)
        assert not possible(conflict)
        assert all(possible(tuple(p for p in conflict if p != left_out)) for left_out in conflict)
        for size in range(2, min(4, len(conflict) - 1) + 1):
            assert all(possible(subset) for subset in combinations(positions, size))


def test_two_words_for_one_pair_contradict_each_other() -> None:
    first, second = "kitchen #1 is left-of bathroom #1", "bathroom #1 is left-of kitchen #1"
    extra = "bedroom #1 is above kitchen #1"
    (problem,) = conflicts(positions_of(extra, first, second))
    assert problem.sentences == (f"{first}.", f"{second}.")
    assert problem.message == f"“{first}.”, “{second}.” cannot both hold"
    assert conflicts(positions_of(first, "kitchen #1 is left-above bathroom #1"))
    assert not conflicts(positions_of(first, "bathroom #1 is right-of kitchen #1"))


def test_a_circle_is_found_along_slanting_axes_too() -> None:
    circle = (
        "kitchen #1 is left-of bathroom #1",
        "bathroom #1 is left-below bedroom #1",
        "bedroom #1 is left-of kitchen #1",
    )
    (problem,) = conflicts(positions_of("balcony #1 is above storage #1", *circle))
    assert problem.sentences == tuple(f"{sentence}." for sentence in circle)
    assert "cannot all hold" in problem.message


def test_a_conflict_that_no_single_axis_shows() -> None:
    sentences = (
        "kitchen #1 is below living room #1", "bedroom #1 is below living room #1", "bathroom #1 is right-of living room #1",
        "bedroom #1 is left-of kitchen #1", "bathroom #1 is above kitchen #1", "bathroom #1 is right-of bedroom #1",
    )  # fmt: skip
    (problem,) = conflicts(positions_of(*sentences, "balcony #1 is below bedroom #1"))
    assert problem.sentences == tuple(f"{sentence}." for sentence in sentences)


def test_conflicts_that_share_no_sentence_are_all_reported() -> None:
    positions = positions_of(
        "kitchen #1 is above bathroom #1", "balcony #1 is left-of storage #1",
        "kitchen #1 is below bathroom #1", "balcony #1 is right-of storage #1",
    )  # fmt: skip
    assert len(conflicts(positions)) == 2


COUNTS = "[Number and Type of Rooms] The floorplan have 1 living room, 1 bathroom, 2 bedroom, 0 storage "


@pytest.mark.parametrize(
    ("text", "kind", "told", "sentences"),
    [
        (COUNTS + "[Connection Between Rooms] living room #1 and bedroom #3 are connected.", "error", "only 2 are counted",
         ("2 bedroom", "living room #1 and bedroom #3 are connected.")),
        (COUNTS + "[Positional Relationship Between Rooms] storage #1 is above living room #1.", "error", "none is counted",
         ("0 storage", "storage #1 is above living room #1.")),
        (COUNTS + "[Positional Relationship Between Rooms] kitchen #1 is above living room #1.", "error", "do not list kitchen",
         ("kitchen #1 is above living room #1.",)),
        ("[Connection Between Rooms] kitchen #1 and kitchen #1 are connected.", "error", "with itself",
         ("kitchen #1 and kitchen #1 are connected.",)),
        ("[Positional Relationship Between Rooms] kitchen #1 is above kitchen #1.", "error", "beside itself",
         ("kitchen #1 is above kitchen #1.",)),
        ("[Number and Type of Rooms] The floorplan have 0 kitchen, 0 storage", "error", "no room", ("0 kitchen", "0 storage")),
        ("[Connection Between Rooms] kitchen #1 and bedroom #1 are connected. bedroom #1 and kitchen #1 are connected.",
         "warning", "2 times",
         ("kitchen #1 and bedroom #1 are connected.", "bedroom #1 and kitchen #1 are connected.")),
        ("[Positional Relationship Between Rooms] kitchen #1 is above bedroom #1. bedroom #1 is below kitchen #1.",
         "warning", "2 times", ("kitchen #1 is above bedroom #1.", "bedroom #1 is below kitchen #1.")),
        ("[Number and Type of Rooms] The floorplan have 1 living room, 40 bedroom", "warning", "18 m x 18 m",
         ("1 living room", "40 bedroom")),
        ("[Number and Type of Rooms] The floorplan have 0 living room, 1 kitchen, 1 bedroom "
         "[Connection Between Rooms] kitchen #1 and bedroom #1 are connected.", "warning", "no living room",
         ("0 living room",)),
        (COUNTS + "[Connection Between Rooms] living room #1 and bedroom #1 are connected. "
         "bathroom #1 and bedroom #2 are connected.", "warning", "with living room #1 and the rest",
         ("bathroom #1 and bedroom #2 are connected.",)),
        (COUNTS + "[Connection Between Rooms]", "warning", "no sentence connects living room #1, bedroom #1, bedroom #2", ()),
        ("[Conections] x", "error", "did you mean", ()),
        ("[Positional Relationship Between Rooms] kitchen #1 is abov bedroom #1.", "error", "did you mean 'above'",
         ("kitchen #1 is abov bedroom #1",)),
        ("[Number and Type of Rooms] The floorplan have 1 attic", "error", "attic", ("1 attic",)),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_sentences(text: str, kind: str, told: str, sentences: tuple[str, ...]) -> None:
    found = [problem for problem in check_text(text) if problem.kind == kind and told in problem.message]
    assert [problem.sentences for problem in found] == [sentences]


def test_too_many_doors() -> None:
    others = ["kitchen #1", "bedroom #1", "bedroom #2", "master room #1", "living room #1"]
    pairs = [f"bathroom #1 and {other} are connected." for other in others]
    told = check_text("[Connection Between Rooms] " + " ".join(pairs))
    assert [problem.sentences for problem in told if "5 doors" in problem.message] == [tuple(pairs)]
    five = [*others[1:], "balcony #1"]
    every = [f"{a} and {b} are connected." for a, b in combinations(five, 2)]
    told = check_text("[Connection Between Rooms] " + " ".join(every))
    assert [problem.sentences for problem in told if "crossing" in problem.message] == [tuple(every)]
    assert not any(
        "crossing" in problem.message for problem in check_text("[Connection Between Rooms] " + " ".join(every[1:]))
    )


def test_drawn_and_real_plans_have_no_error() -> None:
    for seed in range(5):
        assert not [p for p in check_spec(spec_of(synthesise(seed).plan)) if p.kind == "error"]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_real_texts_have_no_error(number: int) -> None:
    text = (shared_data("sjh") / f"{number}.txt").read_text(encoding="utf-8")
    assert not [problem for problem in check_text(text) if problem.kind == "error"]


def test_a_long_text_is_checked_in_a_moment() -> None:
    rooms = [RoomId("bedroom", number) for number in range(1, 150)]
    chain = tuple(Position(b, "right-of", a) for a, b in pairwise(rooms))
    assert not conflicts(chain)
    closed = (*chain, Position(rooms[0], "right-below", rooms[-1]))
    assert [len(problem.sentences) for problem in conflicts(closed)] == [149]
