"""Drawn plans: the same from the same seed, image and text in agreement, much like real ones, kept when interrupted."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.render.painting import labels_of_exact, paint, png_of
from loraloom.extensions.domains.floorplan.synthesis import SynthesisedPlan, synthesise
from loraloom.extensions.domains.floorplan.synthesis.dataset import write_dataset
from loraloom.extensions.domains.floorplan.synthesis.graphs import graph_hash, split_of
from loraloom.extensions.domains.floorplan.synthesis.grid import Rect, Run, covered, fits_block, runs
from loraloom.extensions.domains.floorplan.text.spec import parse_spec, print_spec, spec_of
from loraloom.extensions.domains.floorplan.vision.pixels import dilate
from loraloom.extensions.domains.floorplan.vocabulary import DOOR, STYLES, WALL, RoomId
from loraloom.utils.errors import UserError

SEEDS = range(80)


@cache
def drawn(seed: int) -> SynthesisedPlan:
    return synthesise(seed)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    again = synthesise(7)
    assert np.array_equal(again.plan.labels, drawn(7).plan.labels)
    assert (again.wall_px, again.tries) == (drawn(7).wall_px, drawn(7).tries)
    assert not np.array_equal(again.plan.labels, drawn(8).plan.labels)


@pytest.mark.parametrize("style", STYLES)
def test_text_and_image_agree_after_a_way_through_their_files(style: str) -> None:
    for seed in range(60):
        plan = drawn(seed).plan
        with Image.open(io.BytesIO(png_of(plan.labels, style))) as image:
            read = annotate(labels_of_exact(np.asarray(image), style))
        assert parse_spec(print_spec(spec_of(plan, style))) == spec_of(read, style)


def test_every_plan_is_a_flat_that_one_can_enter_and_walk_through() -> None:
    for seed in SEEDS:
        plan = drawn(seed).plan
        assert plan.labels.shape == (256, 256)
        assert plan.labels.dtype == np.uint8
        front = [opening for opening in plan.openings if opening.kind == "front door"]
        assert len(front) == 1
        assert [room.kind for room in front[0].rooms] in (["living room"], ["entrance"])
        assert plan.counts["living room"] == plan.counts["master room"] == plan.counts["kitchen"] == 1
        found, grown = {RoomId("living room", 1)}, True
        while grown:
            near = {room for pair in plan.connections if found & set(pair) for room in pair}
            grown, found = not near <= found, found | near
        assert {room.id.kind for room in plan.rooms if room.id not in found} <= {"balcony"}, f"seed {seed}"


def inner_doors(plan: Plan) -> list[tuple[RoomId, ...]]:
    """The rooms of each interior door."""
    return [opening.rooms for opening in plan.openings if opening.kind == "interior door"]


def test_a_door_joins_two_rooms_and_stands_clear_of_others() -> None:
    for seed in SEEDS:
        plan = drawn(seed).plan
        assert {len(rooms) for rooms in inner_doors(plan)} == {2}, f"seed {seed}"
        # Grown by as much as a small model errs, doors still join the same rooms and no others.
        grown = np.where(dilate(plan.labels == DOOR, 1) & (plan.labels == WALL), DOOR, plan.labels)
        assert annotate(grown.astype(np.uint8)).connections == plan.connections, f"seed {seed}"


def test_with_corner_doors_some_join_three_rooms_as_in_real_plans() -> None:
    doors = [rooms for seed in SEEDS for rooms in inner_doors(synthesise(seed, corner_doors=True).plan)]
    assert 0.03 < np.mean([len(rooms) > 2 for rooms in doors]) < 0.11  # 0.06 of real ones


def test_plans_are_centred() -> None:
    for seed in SEEDS:
        ys, xs = np.nonzero(drawn(seed).plan.labels)
        assert abs(int(xs.min()) + int(xs.max()) - 256) <= 4
        assert abs(int(ys.min()) + int(ys.max()) - 256) <= 4


def medians() -> Iterator[tuple[str, float, float, float]]:
    """Name, value, least and most: around the medians of 101 real plans."""
    plans = [drawn(seed).plan for seed in SEEDS]
    areas = {kind: [room.area_px for plan in plans for room in plan.rooms if room.id.kind == kind] for kind in AREAS}
    for kind, real in AREAS.items():
        yield kind, float(np.median(areas[kind])), 0.8 * real, 1.2 * real
    living = [plan.rooms[0] for plan in plans]
    shares = [
        room.area_px / sum(other.area_px for other in plan.rooms) for room, plan in zip(living, plans, strict=True)
    ]
    yield "living share", float(np.median(shares)), 0.37, 0.47
    filled = [room.area_px / ((room.box[2] - room.box[0]) * (room.box[3] - room.box[1])) for room in living]
    yield "rectangularity", float(np.median(filled)), 0.58, 0.74
    yield "rooms", float(np.mean([len(plan.rooms) for plan in plans])), 6.2, 7.2
    yield "connections", float(np.median([len(plan.connections) for plan in plans])), 5, 7
    yield "positions", float(np.median([len(plan.positions) for plan in plans])), 7, 11
    yield "thick walls", float(np.mean([drawn(seed).wall_px == 5 for seed in SEEDS])), 0.06, 0.30
    boxes = [np.nonzero(plan.labels) for plan in plans]
    yield "height", float(np.median([np.ptp(ys) + 1 for ys, _ in boxes])), 135, 180
    yield "width", float(np.median([np.ptp(xs) + 1 for _, xs in boxes])), 130, 170
    fill = [len(ys) / ((np.ptp(ys) + 1) * (np.ptp(xs) + 1)) for ys, xs in boxes]
    yield "fill", float(np.median(fill)), 0.76, 0.90


AREAS = {"living room": 6464, "master room": 2760, "bedroom": 2006, "kitchen": 1092, "bathroom": 768, "balcony": 864}
"""Median areas of the real plans, pixels."""


def test_statistics_are_near_those_of_real_plans() -> None:
    wrong = [
        f"{name}: {value:.2f} not in {low} .. {high}"
        for name, value, low, high in medians()
        if not low <= value <= high
    ]
    assert not wrong


def test_the_graph_hash_ignores_numbers_and_images_and_sees_connections() -> None:
    plan = next(drawn(seed).plan for seed in SEEDS if drawn(seed).plan.counts["bedroom"] == 2)
    swap = {RoomId("bedroom", 1): RoomId("bedroom", 2), RoomId("bedroom", 2): RoomId("bedroom", 1)}
    renamed: Plan = replace(
        plan,
        connections=tuple((swap.get(a, a), swap.get(b, b)) for a, b in plan.connections),
        positions=tuple(
            replace(at, subject=swap.get(at.subject, at.subject), object=swap.get(at.object, at.object))
            for at in plan.positions
        ),
    )
    assert graph_hash(renamed) == graph_hash(plan)
    assert graph_hash(replace(plan, connections=plan.connections[1:])) != graph_hash(plan)
    assert graph_hash(replace(plan, labels=plan.labels * 0)) == graph_hash(plan)


def test_equal_graphs_are_on_one_side_of_the_split() -> None:
    hashes = [graph_hash(drawn(seed).plan) for seed in SEEDS]
    assert [split_of(value, 0.3) for value in hashes] == [split_of(value, 0.3) for value in hashes]
    share = np.mean([split_of(value, 0.3) == "validation" for value in hashes])
    assert 0.1 < share < 0.5  # 80 plans: four standard deviations
    assert {split_of(value, 0.0) for value in hashes} == {"train"}
    assert {split_of(value, 1.0) for value in hashes} == {"validation"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_data_set_is_completed_where_it_was_interrupted(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    write_dataset(tmp_path / "whole", 6, seed=3)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "parts", 6, seed=3, progress=stop)
    assert not (tmp_path / "parts" / "splits.json").exists()
    (tmp_path / "parts" / "label_floorplan" / "1.png").write_bytes(b"half")
    kept = (tmp_path / "parts" / "truth" / "0.json").stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    write_dataset(tmp_path / "parts", 6, seed=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]
    assert (tmp_path / "parts" / "truth" / "0.json").stat().st_mtime_ns == kept
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_data_set_holds_what_its_truth_says(tmp_path: Path) -> None:
    splits = write_dataset(tmp_path, 8, seed=1, style="plain", validation_share=0.5)
    assert sorted(splits["train"] + splits["validation"]) == list(range(8))
    keys: set[tuple[str, str]] = set()
    for number in range(8):
        truth = json.loads((tmp_path / "truth" / f"{number}.json").read_text(encoding="utf-8"))
        with Image.open(tmp_path / "label_floorplan" / f"{number}.png") as image:
            plan = annotate(labels_of_exact(np.asarray(image), "plain"))
        text = (tmp_path / "input_text" / f"{number}.txt").read_text(encoding="utf-8")
        assert text == truth["text"] == print_spec(spec_of(plan, "plain"))
        assert [room["area_px"] for room in truth["rooms"]] == [room.area_px for room in plan.rooms]
        assert number in splits[split_of(graph_hash(plan), 0.5)]
        assert np.array_equal(synthesise(truth["seed"]).plan.labels, plan.labels)
        keys.add((truth["graph_hash"], truth["coarse_hash"]))
    assert len(keys) == 8


def test_processes_do_not_change_a_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", 4, seed=5, workers=1)
    write_dataset(tmp_path / "two", 4, seed=5, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_mistakes_with_a_data_set_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1, seed=1)
    with pytest.raises(UserError, match="holds another data set"):
        write_dataset(tmp_path, 1, seed=2)
    with pytest.raises(UserError, match="holds another data set"):
        write_dataset(tmp_path, 1, seed=1, style="plain")
    with pytest.raises(UserError, match="without corner doors at number 0") as caught:
        write_dataset(tmp_path, 1, seed=1, corner_doors=True)
    assert "with corner doors" in str(caught.value)
    with pytest.raises(UserError, match="did you mean 'plain'"):
        write_dataset(tmp_path, 1, seed=1, style="plane")
    write_dataset(tmp_path, 3, seed=1)
    before = files(tmp_path)
    with pytest.raises(UserError, match="holds more plans than asked for"):
        write_dataset(tmp_path, 2, seed=1)
    assert files(tmp_path) == before
    with pytest.raises(UserError, match="must be positive"):
        write_dataset(tmp_path, 0, seed=1)


def test_a_strange_colour_is_refused_with_its_place() -> None:
    rgb = paint(drawn(0).plan.labels)
    assert np.array_equal(labels_of_exact(rgb), drawn(0).plan.labels)
    rgb[5, 9] = (1, 2, 3)
    with pytest.raises(UserError, match=r"'sjh' does not know, 1 px .*RGB \(1, 2, 3\) at x 9, y 5"):
        labels_of_exact(rgb)


def test_blocks_cover_what_they_fit() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[1:4, 1:8] = True
    mask[4:8, 2:4] = True
    expected = np.zeros_like(mask)
    for y, x in np.ndindex(7, 7):
        if mask[y : y + 3, x : x + 3].all():
            expected[y : y + 3, x : x + 3] = True
    assert np.array_equal(covered(fits_block(mask, 3), 3), expected)


def test_runs_are_straight_walls_between_two_owners() -> None:
    cells = np.array([[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]], np.uint8)
    assert runs(cells) == [
        Run(False, 1, 1, 2, (0, 1)), Run(False, 1, 2, 3, (0, 2)), Run(False, 3, 1, 2, (1, 0)), Run(False, 3, 2, 3, (2, 0)),
        Run(True, 1, 1, 3, (0, 1)), Run(True, 2, 1, 3, (1, 2)), Run(True, 3, 1, 3, (2, 0)),
    ]  # fmt: skip


def test_rectangles_overlap_when_they_share_a_cell() -> None:
    squares = [Rect(0, 0, 2, 2), Rect(0, 2, 2, 4), Rect(1, 1, 3, 3)]
    assert [first.overlaps(second) for first, second in combinations(squares, 2)] == [False, True, True]
