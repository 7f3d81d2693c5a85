"""Metrics: known answers score known values, tallies merge in any order, anchors know what they say they know."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from math import isnan

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.render.painting import paint
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import print_spec, spec_of
from loraloom.extensions.domains.floorplan.verify.anchors import anchors, hub_only
from loraloom.extensions.domains.floorplan.verify.graph_distance import Graph, edit_distance, graph_of
from loraloom.extensions.domains.floorplan.verify.metrics import (
    METRICS,
    by_windows,
    count_score,
    one_front_door,
    overlaps,
)
from loraloom.extensions.domains.floorplan.vocabulary import DOOR, EXTERNAL, FRONT_DOOR, WALL, RoomId
from loraloom.protocols.domain import Metric, Tally

TEXT, IOU = METRICS
LIVING, MASTER, KITCHEN = RoomId("living room", 1), RoomId("master room", 1), RoomId("kitchen", 1)


@cache
def drawn(seed: int) -> Plan:
    return synthesise(seed, corner_doors=True).plan  # the harder ones, as real plans are


def make_image(labels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", style: str = "sjh") -> Image.Image:
    return Image.fromarray(paint(labels, style))


def small(kitchen: bool = True, extra_door: bool = False) -> Plan:
    """Living room beside master room (a door), kitchen below the living room (a door)."""
    labels = np.zeros((256, 256), np.uint8)
    labels[50:153, 50:153] = WALL
    labels[53:100, 53:100], labels[53:100, 103:150] = 1, 2
    labels[60:73, 100:103] = DOOR
    labels[60:72, 50:53] = FRONT_DOOR
    if kitchen:
        labels[103:150, 53:100] = 3
        labels[100:103, 60:73] = DOOR
    else:
        labels[103:153, 50:100] = EXTERNAL
    if extra_door:
        labels[98:105, 98:105] = DOOR  # a corner blob: it joins all three
        labels[103:150, 103:150] = WALL
    return annotate(labels)


def tally_of(metric: Metric, triples: Sequence[tuple[Image.Image, str, Image.Image | None]]) -> Tally:
    tally = metric.start()
    for triple in triples:
        tally.add(*triple)
    return tally


def values(metric: Metric, image: Image.Image, prompt: str, reference: Image.Image | None = None) -> dict[str, float]:
    return dict(tally_of(metric, [(image, prompt, reference)]).result())


def test_perfect_images_score_perfectly() -> None:
    lower = ("off_palette", "extra_connections", "graph_edit_distance", "sentences_unsure")
    for style in ("sjh", "plain"):
        triples = [
            (
                make_image(drawn(seed).labels, style),
                print_spec(spec_of(drawn(seed), style)),
                make_image(drawn(seed).labels, style),
            )
            for seed in range(4)
        ]
        for metric in METRICS:
            result = tally_of(metric, triples).result()
            assert set(result) == set(metric.better)
            assert result["images"] == 4
            assert all(value == (0 if name in lower else 1) for name, value in result.items() if name != "images")


def test_a_missing_room_costs_what_it_should() -> None:
    asked = print_spec(spec_of(small()))
    result = values(TEXT, make_image(small(kitchen=False).labels), asked)
    # 8 counts, 2 connections, 3 positions (the corner counts: master room and kitchen are 4 px apart).
    assert spec_of(small()).positions is not None
    assert len(spec_of(small()).positions or ()) == 3
    assert result["sentences_met"] == (7 + 1 + 1) / 13
    assert result["complete"] == result["room_total_exact"] == 0
    assert result["count_items_met"] == 7 / 8
    assert result["room_count_score"] == pytest.approx(2 / 3)
    assert (result["connection_precision"], result["connection_recall"]) == (1, 0.5)
    assert result["connection_f1"] == pytest.approx(2 / 3)
    assert isnan(result["connection_recall_without_living"])
    assert result["position_exact_of_present"] == 1
    assert result["position_exact_of_all"] == result["position_within_one_of_all"] == pytest.approx(1 / 3)
    assert result["graph_edit_distance"] == 2  # a room and its door
    assert result["parsed"] == result["one_front_door"] == result["rooms_in_one_piece"] == 1


def test_an_unasked_door_is_extra_and_not_precise() -> None:
    result = values(TEXT, make_image(small(extra_door=True).labels), print_spec(spec_of(small())))
    assert result["extra_connections"] == 1
    assert result["connection_precision"] == pytest.approx(2 / 3)
    assert result["connection_precision_without_living"] == 0
    assert result["connection_recall"] == 1
    assert result["graph_edit_distance"] == 1
    assert result["complete"] == 1  # every sentence holds; what nobody asked for is an extra


def test_words_one_octant_off_are_told_from_wrong_ones() -> None:
    text = print_spec(spec_of(small())).replace("master room #1 is right-of", "master room #1 is right-below")
    result = values(TEXT, make_image(small().labels), text.replace("kitchen #1 is below", "kitchen #1 is above"))
    assert result["position_exact_of_present"] == pytest.approx(1 / 3)
    assert result["position_within_one_of_present"] == pytest.approx(2 / 3)


def test_a_room_in_two_pieces_is_not_in_one() -> None:
    labels = small().labels.copy()
    labels[120:124, 53:100] = WALL
    result = values(TEXT, make_image(labels), print_spec(spec_of(small())))
    assert result["rooms_in_one_piece"] == pytest.approx(2 / 3)
    assert result["room_count_score"] == pytest.approx(2 / 3)


def test_an_unreadable_image_scores_as_an_empty_one() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    result = values(TEXT, Image.fromarray(noise), print_spec(spec_of(small())))
    for name in ("sentences_met", "parsed", "complete", "count_items_met", "connection_f1", "position_exact_of_all"):
        assert result[name] == 0, name
    assert result["sentences_unsure"] == 1
    assert result["off_palette"] > 0.6
    assert result["graph_edit_distance"] == 5


def test_a_text_without_a_section_is_not_counted_for_it() -> None:
    prompt = "[Connection Between Rooms]\nliving room #1 and kitchen #1 are connected.\n"
    result = values(TEXT, make_image(small().labels), prompt)
    assert result["connection_recall"] == 1
    assert isnan(result["count_items_met"])
    assert isnan(result["position_exact_of_all"])
    assert isnan(result["graph_edit_distance"])


def test_iou_is_that_of_the_formula() -> None:
    truth, shown = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    truth[:, :6], truth[:, 6:8] = 1, 2  # 60 and 20 px
    shown[:, :3], shown[:, 3:6], shown[:, 6:8] = 1, 3, 2  # half of the living room is kitchen
    result = {name: top / bottom for name, top, bottom in overlaps(shown, truth)}
    assert result["iou_pooled"] == pytest.approx((30 + 20) / (60 + 20))
    assert result["iou_per_type"] == pytest.approx((0.5 + 1) / 2)
    assert result["iou_pooled_both"] == pytest.approx(50 / (60 + 20 + 30))
    assert result["iou_per_type_both"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert list(overlaps(truth * 0, truth * 0)) == []


def test_images_without_a_true_one_have_no_iou() -> None:
    result = values(IOU, make_image(small().labels), print_spec(spec_of(small())))
    assert result["images"] == 0
    assert isnan(result["iou_pooled"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_tallies_merge_to_the_same_in_any_order_and_partition(metric: Metric) -> None:
    triples = [
        (make_image(drawn((seed * 5 + 2) % 8).labels), print_spec(spec_of(drawn(seed))), make_image(drawn(seed).labels))
        for seed in range(8)
    ]
    whole = dict(tally_of(metric, triples).result())
    rng = random.Random(0)
    for _ in range(2):
        rng.shuffle(triples)
        cut = rng.randrange(1, 7)
        parts = [tally_of(metric, triples[cut:]), metric.start(), tally_of(metric, triples[:cut])]
        for part in parts[1:]:
            parts[0].merge(part)
        merged = dict(parts[0].result())
        assert repr(merged) == repr(whole)  # to the last digit; nan is not equal to itself
    with pytest.raises(TypeError, match="same metric"):
        TEXT.start().merge(IOU.start())


def test_values_can_be_kept_apart_by_windows() -> None:
    def windows(text: str) -> int:
        return 1 if "[Positional" not in text else 3

    full, short = print_spec(spec_of(small())), print_spec(spec_of(small())).partition("\n\n[Conn")[0]
    whole, first, second = (by_windows(TEXT, windows) for _ in range(3))
    for tally in (whole, first):
        tally.add(make_image(small().labels), full)
    for tally in (whole, second):
        tally.add(make_image(small(kitchen=False).labels), short)
    first.merge(second)
    assert repr(first.result()) == repr(whole.result())
    assert whole.result()["images"] == 2
    assert whole.result()["complete@3"] == whole.result()["images@1"] == 1
    assert whole.result()["complete@1"] == 0


def test_counts_are_scored_like_the_source() -> None:
    assert [count_score(2, found) for found in range(6)] == [0, 0.5, 1, 0.5, 0, 0]
    assert [count_score(0, found) for found in range(3)] == [1, 0, 0]


def test_a_front_door_is_one_and_in_the_shell() -> None:
    assert one_front_door(small())
    inside, second, none = (small().labels.copy() for _ in range(3))
    none[60:72, 50:53] = WALL
    assert not one_front_door(annotate(none))
    inside[60:72, 50:53] = WALL
    inside[80:92, 100:103] = FRONT_DOOR
    assert not one_front_door(annotate(inside))
    second[80:92, 50:53] = FRONT_DOOR
    assert not one_front_door(annotate(second))


# ----------------------------------------------------------------------------------------------------- graph distance


def by_hand(first: Graph, second: Graph) -> int:
    """Graph edit distance by trying every mapping of nodes, deletions included."""
    costs: list[int] = []

    def extend(images: list[int | None]) -> None:
        if len(images) < len(first.kinds):
            for image in [None, *(place for place in range(len(second.kinds)) if place not in images)]:
                extend([*images, image])
            return
        kept = sum(image is not None for image in images)
        unlike = sum(
            image is not None and first.kinds[node] != second.kinds[image] for node, image in enumerate(images)
        )
        moved = {frozenset(images[node] for node in edge) for edge in first.edges}
        shared = len({edge for edge in moved if None not in edge} & second.edges)
        nodes = len(first.kinds) + len(second.kinds) - 2 * kept + unlike
        costs.append(nodes + len(first.edges) + len(second.edges) - 2 * shared)

    extend([])
    return min(costs)


def random_graph(rng: random.Random, most: int = 4) -> Graph:
    kinds = tuple(rng.choice(("bedroom", "kitchen", "bathroom")) for _ in range(rng.randint(0, most)))
    pairs = map(frozenset, combinations(range(len(kinds)), 2))
    density = rng.random()
    return Graph(kinds, frozenset(pair for pair in pairs if rng.random() < density))


def test_graph_distance_is_that_of_every_mapping_tried() -> None:
    rng = random.Random(3)
    for _ in range(200):
        first, second = random_graph(rng), random_graph(rng)
        distance = edit_distance(first, second)
        assert distance.exact
        assert distance.edits == by_hand(first, second) == edit_distance(second, first).edits


def test_rooms_of_a_type_are_interchangeable() -> None:
    one, two = RoomId("bedroom", 1), RoomId("bedroom", 2)
    rooms = [LIVING, one, two, KITCHEN]
    first = graph_of(rooms, [(LIVING, one), (one, KITCHEN)])
    assert edit_distance(first, graph_of(rooms, [(LIVING, two), (two, KITCHEN)])).edits == 0
    assert edit_distance(first, graph_of(rooms, [(LIVING, two), (one, KITCHEN)])).edits == 2
    assert edit_distance(first, graph_of([LIVING, one, two], [(LIVING, one)])).edits == 2
    assert graph_of(rooms, [(one, one), (one, two), (two, one)]).edges == {frozenset((1, 2))}


def test_a_search_that_is_cut_short_says_so_and_overestimates() -> None:
    rng = random.Random(5)
    kinds = ("bedroom",) * 9
    pairs = [frozenset(pair) for pair in combinations(range(9), 2)]
    first, second = (Graph(kinds, frozenset(rng.sample(pairs, 14))) for _ in range(2))
    short, long = edit_distance(first, second, most_looks=100), edit_distance(first, second)
    assert not short.exact
    assert long.exact
    assert short.edits >= long.edits
    many = Graph(("bedroom",) * 200, frozenset())
    assert edit_distance(many, second).edits >= 200 - 9


# ------------------------------------------------------------------------------------------------------------ anchors


def test_anchors_know_what_they_say() -> None:
    plans = [drawn(seed) for seed in range(4)]
    table = anchors(
        [print_spec(spec_of(plan)) for plan in plans], [make_image(plan.labels) for plan in plans], 0, pool=12
    )
    assert list(table) == ["truth", "another plan", "same counts", "constant hub", "blank"]
    assert table["truth"]["complete"] == table["truth"]["iou_pooled"] == 1
    assert table["blank"]["sentences_met"] == table["blank"]["iou_pooled"] == 0
    assert 0.02 < table["another plan"]["iou_pooled"] < 0.5
    assert table["same counts"]["room_count_score"] >= table["another plan"]["room_count_score"]
    assert table["constant hub"]["connection_recall_without_living"] == 0
    assert table["constant hub"]["connection_f1"] > 0.5


def test_a_hub_has_doors_to_the_living_room_only() -> None:
    beside = 0
    for seed in range(12):
        plan = drawn(seed)
        hub = annotate(hub_only(plan))
        assert hub.rooms == plan.rooms
        assert all(pair[0] == LIVING for pair in hub.connections)
        beside += len(hub.connections)
        doors = [opening for opening in hub.openings if opening.kind == "interior door"]
        assert all(len(opening.rooms) == 2 for opening in doors)
    assert beside >= 12 * 4
    assert set(annotate(hub_only(small())).connections) == {(LIVING, MASTER), (LIVING, KITCHEN)}
