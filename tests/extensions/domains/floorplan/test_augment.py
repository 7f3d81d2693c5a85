"""More texts from one: what is left is still true, and a moved plan has the words that the annotator reads from it."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom.extensions.domains.floorplan.augment import (  # fmt: skip
    DROPPINGS,
    SYMMETRIES,
    Dropping,
    Symmetry,
    drop,
    mirror_x,
    mirror_y,
    mirrored,
    shuffle,
    swap,
    transformed,
    turn,
    turned_texts,
)
from loraloom.extensions.domains.floorplan.plan import Labels, Plan, annotate, direction
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import Spec, parse_spec, print_spec, spec_of, upright
from loraloom.extensions.domains.floorplan.vocabulary import DIRECTIONS, OFFSETS, STYLES, RoomId
from loraloom.utils.errors import UserError
from tests.support.images import shared_data

from .strategies import label_maps, specs

seeds = st.integers(0, 2**32 - 1)
symmetries = st.sampled_from(SYMMETRIES)


@cache
def drawn(seed: int) -> Plan:
    return synthesise(seed, corner_doors=True).plan  # the harder ones, as real plans are


@settings(max_examples=60)
@given(specs, seeds, st.sampled_from([*DROPPINGS.values(), Dropping(1.0, 1.0), Dropping(1.0, sentence=1.0)]))
def test_dropping_keeps_order_and_ids_and_never_all(spec: Spec, seed: int, how: Dropping) -> None:
    left = drop(spec, np.random.default_rng(seed), how)
    assert left.style == spec.style
    assert left.counts in (None, spec.counts)
    for some, whole in ((left.connections, spec.connections), (left.positions, spec.positions)):
        assert some is None or (whole is not None and not Counter(some) - Counter(whole))
        assert not (whole and some == ())
        if len(set(whole or ())) == len(whole or ()):
            places = [list(whole or ()).index(sentence) for sentence in some or ()]
            assert places == sorted(places)
    assert parse_spec(print_spec(left)) == left
    assert drop(spec, np.random.default_rng(seed), how) == left
    assert drop(spec, np.random.default_rng(seed), Dropping()) == spec


def test_the_presets_have_their_rates() -> None:
    spec, rng = spec_of(drawn(0)), np.random.default_rng(0)
    assert spec.connections and len(spec.connections) > 2
    many = 2000
    heavy = [drop(spec, rng, DROPPINGS["heavy"]) for _ in range(many)]
    assert sum(left.counts is None for left in heavy) / many == pytest.approx(0.4, abs=0.07)
    assert sum(len(left.connections or ()) <= 2 for left in heavy) / many == pytest.approx(0.55, abs=0.05)
    light = [drop(spec, rng) for _ in range(many)]
    kept = sum(len(left.connections or ()) for left in light) / many / len(spec.connections)
    assert kept == pytest.approx(0.9 * 0.9, abs=0.03)


@settings(max_examples=60)
@given(specs, seeds)
def test_shuffling_keeps_every_sentence(spec: Spec, seed: int) -> None:
    other = shuffle(spec, np.random.default_rng(seed))
    assert (other.style, other.counts) == (spec.style, spec.counts)
    for found, given_ in ((other.connections, spec.connections), (other.positions, spec.positions)):
        assert (found is None) == (given_ is None)
        assert Counter(found or ()) == Counter(given_ or ())


@settings(max_examples=60)
@given(specs, seeds)
def test_swapping_says_the_same(spec: Spec, seed: int) -> None:
    other = swap(spec, np.random.default_rng(seed))
    assert [set(pair) for pair in other.connections or ()] == [set(pair) for pair in spec.connections or ()]
    for found, given_ in zip(other.positions or (), spec.positions or (), strict=True):
        assert found == given_ or (found.subject, found.object) == (given_.object, given_.subject)
        if given_.subject != given_.object:
            assert upright(found) == upright(given_)
    everything = swap(spec, np.random.default_rng(seed), 1.0)
    assert swap(everything, np.random.default_rng(seed), 1.0) == spec


# ------------------------------------------------------------------------------------------------------ images


def test_maps_are_moved_as_said() -> None:
    labels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert mirror_x(labels).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert mirror_y(labels).tolist() == [[4, 5, 6], [1, 2, 3]]
    assert turn(labels, 1).tolist() == [[4, 1], [5, 2], [6, 3]]  # clockwise: the left side comes up
    assert turn(turn(labels, 3), 1).tolist() == labels.tolist()
    assert np.array_equal(Symmetry(True, 2).labels(labels), mirror_y(labels))
    assert len({move.labels(labels).tobytes() + bytes(move.labels(labels).shape) for move in SYMMETRIES}) == 8


finite = st.floats(-300, 300).filter(lambda value: value == 0 or abs(value) > 1e-3)


@settings(max_examples=60)
@given(finite, finite, symmetries)
@example(1.0, 0.0, SYMMETRIES[5])
def test_directions_are_equivariant(x: float, y: float, move: Symmetry) -> None:
    if x == y == 0:
        return
    moved = (-x if move.mirror else x, y)
    for _ in range(move.quarter_turns):
        moved = -moved[1], moved[0]
    assert direction(moved, (0.0, 0.0)) == move.word(direction((x, y), (0.0, 0.0)))


def test_directions_are_octants_as_an_angle_has_them() -> None:
    rng = np.random.default_rng(1)
    for x, y in rng.normal(size=(2000, 2)).tolist():
        octant = round(np.arctan2(y, x) / (np.pi / 4)) % 8
        assert direction((x, y), (0.0, 0.0)) == DIRECTIONS[octant]
    assert all(direction(offset, (0, 0)) == word for word, offset in OFFSETS.items())
    assert direction((3.0, 3.0), (3.0, 3.0)) == "right-of"


def check_equivariance(labels: Labels, move: Symmetry) -> Spec:
    """The moved full text is the text of the moved plan; returns it."""
    spec, moved = transformed(spec_of(annotate(labels)), labels, move)
    assert np.array_equal(moved, move.labels(labels))
    assert spec == spec_of(annotate(moved))
    return spec


@settings(max_examples=80)
@given(label_maps(), symmetries)
def test_a_moved_map_has_the_moved_words(labels: Labels, move: Symmetry) -> None:
    check_equivariance(labels, move)


@pytest.mark.parametrize("seed", range(3))
def test_a_moved_plan_has_the_moved_words(seed: int) -> None:
    labels = drawn(seed).labels
    original = spec_of(drawn(seed))
    assert transformed(original, labels, SYMMETRIES[0])[0] == original
    for move in SYMMETRIES[1:]:
        spec = check_equivariance(labels, move)
        words = Counter(position.direction for position in spec.positions or ())
        assert sum(words.values()) == len(original.positions or ())


@pytest.mark.parametrize("seed", range(4))
def test_texts_of_a_turned_plan_are_those_that_it_gets_one_by_one(seed: int) -> None:
    labels, full = drawn(seed).labels, spec_of(drawn(seed))
    told = turned_texts(print_spec(full), labels)
    assert told == [print_spec(transformed(full, labels, move)[0]) for move in SYMMETRIES]
    part = drop(full, np.random.default_rng(seed), Dropping(sentence=0.5))
    assert turned_texts(print_spec(part), labels) == [
        print_spec(transformed(part, labels, move)[0]) for move in SYMMETRIES
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_retold_text_keeps_its_order_and_stays_true_when_turned(seed: int) -> None:
    rng, labels = np.random.default_rng(seed), drawn(seed).labels
    retold = swap(shuffle(spec_of(drawn(seed)), rng), rng)
    for move, text in zip(SYMMETRIES, turned_texts(print_spec(retold), labels), strict=True):
        assert text is not None
        spec, truth = parse_spec(text), spec_of(annotate(move.labels(labels)))
        assert [(a.kind, b.kind) for a, b in spec.connections or ()] == [
            (a.kind, b.kind) for a, b in retold.connections or ()
        ]
        assert {frozenset(pair) for pair in spec.connections or ()} == {frozenset(p) for p in truth.connections or ()}
        assert {upright(position) for position in spec.positions or ()} == {*(truth.positions or ())}


def test_a_text_of_another_image_is_not_turned() -> None:
    labels = np.full((9, 9), 1, np.uint8)
    text = "[Connection Between Rooms] living room #1 and kitchen #1 are connected."
    assert turned_texts(text, labels) == [None] * len(SYMMETRIES)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_moved_real_plan_has_the_moved_words(number: int) -> None:
    folder = shared_data("sjh")
    pixels = np.array(Image.open(folder / f"{number}.png").convert("RGB"))
    labels = (pixels[:, :, None] == STYLES["sjh"].palette).all(axis=-1).argmax(axis=-1).astype(np.uint8)
    spec = parse_spec((folder / f"{number}.txt").read_text(encoding="utf-8"))
    assert spec == spec_of(annotate(labels))
    for move in SYMMETRIES:
        assert transformed(spec, labels, move)[0] == spec_of(annotate(move.labels(labels)))


def test_rooms_around_one_centre_keep_their_word() -> None:
    labels = np.full((9, 9), 1, np.uint8)
    labels[3:6, 3:6] = 4
    for move in SYMMETRIES:
        check_equivariance(labels, move)


def test_ids_follow_their_rooms_and_false_sentences_turn_by_their_words() -> None:
    labels = np.zeros((4, 8), np.uint8)
    labels[:2, 0:2] = labels[1:3, 4:6] = 5  # bedrooms #1 and #2
    labels[2:, 0:2] = 4
    text = "[Positional Relationship Between Rooms] bedroom #1 is below bathroom #1. bathroom #1 is left-of bedroom #2."
    moved, _ = transformed(parse_spec(text), labels, Symmetry(mirror=True))
    assert print_spec(moved).splitlines()[-2:] == [
        "bathroom #1 is above bedroom #1.", "bathroom #1 is right-of bedroom #2.",
    ]  # fmt: skip
    moved, _ = transformed(parse_spec(text), labels, Symmetry(quarter_turns=2))
    assert print_spec(moved).splitlines()[-2:] == [
        "bathroom #1 is right-of bedroom #1.", "bathroom #1 is below bedroom #2.",
    ]  # fmt: skip


def test_a_text_about_another_image_is_refused() -> None:
    spec = parse_spec("[Connection Between Rooms] kitchen #1 and bedroom #2 are connected.")
    with pytest.raises(UserError, match="its image lacks"):
        transformed(spec, np.zeros((8, 8), np.uint8), SYMMETRIES[1])


# ------------------------------------------------------------------------------------------------------ text alone


@settings(max_examples=60)
@given(label_maps())
def test_a_mirrored_text_is_the_text_of_the_mirrored_image(labels: Labels) -> None:
    text = print_spec(spec_of(annotate(labels)))
    other = mirrored(text)
    plan = annotate(mirror_x(labels))
    if other is not None and not _same_centre(plan):
        found, told = parse_spec(other), spec_of(plan)
        assert (found.counts, found.connections, found.positions) == (told.counts, told.connections, told.positions)
    named = [RoomId(*name) for name in re.findall(r"(\w+(?: room)?) #(\d+)", text)]
    assert (other is None) == any(annotate(labels).counts[room.kind] > 1 for room in named)


def _same_centre(plan: Plan) -> bool:
    centres = [room.centroid for room in plan.rooms]
    return any(np.allclose(a, b) for index, a in enumerate(centres) for b in centres[:index])


def test_a_mirrored_text_keeps_its_form() -> None:
    text = (
        "SJH-Style FloorPlan Generation [Number and Type of Rooms] The floorplan have 1 living room, 1 kitchen, 2 bedroom "
        "[Connection Between Rooms] kitchen #1 and living room #1 are connected. "
        "[Positional Relationship Between Rooms] kitchen #1  is Left-of living room #1."
    )
    other = mirrored(text)
    assert other == text.replace("Left-of", "right-of")
    assert other
    assert mirrored(other) == text.replace("Left-of", "left-of")
    for unclear in (
        text.replace("kitchen #1 and", "bedroom #1 and"),  # of two
        text.replace("kitchen #1 and", "storage #1 and"),  # not counted
        text.replace("1 kitchen, ", ""), text.partition("[Connection")[2], "the kitchen is left of the bath", "",
    ):  # fmt: skip
        assert mirrored(unclear) is None
