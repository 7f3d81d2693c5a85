"""Cleaning keeps what a plan says and loses what it should not have."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.vision import cleaning
from loraloom.extensions.domains.floorplan.vision.cleaning import clean, raggedness, wall_thickness, without_specks
from loraloom.extensions.domains.floorplan.vocabulary import DOOR, NUM_CLASSES, STYLES, WALL, WINDOW

Labels = np.ndarray


def real(shared_data: Path, number: int) -> Labels:
    rgb = np.asarray(Image.open(shared_data / "sjh" / f"{number}.png").convert("RGB"))
    return (rgb[:, :, None] == STYLES["sjh"].palette).all(-1).argmax(-1).astype(np.uint8)


def roughened(labels: Labels, seed: int, jitter: float, specks: int = 15, bites: int = 8) -> Labels:
    """What a diffusion model makes of a plan: edges off by a pixel, stray dots, bitten walls."""
    rng = np.random.default_rng(seed)
    height, width = labels.shape
    rows, columns = np.mgrid[:height, :width]
    moved = labels[
        np.clip(rows + rng.integers(-1, 2, labels.shape), 0, height - 1),
        np.clip(columns + rng.integers(-1, 2, labels.shape), 0, width - 1),
    ]
    rough = np.where(rng.random(labels.shape) < jitter, moved, labels)
    for _ in range(specks):
        y, x = rng.integers(30, 220, 2)
        rough[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = rng.integers(0, NUM_CLASSES)
    ys, xs = np.nonzero(labels == WALL)
    for _ in range(bites):
        place = rng.integers(len(ys))
        y, x = ys[place], xs[place]
        beside = labels[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        rough[y - 1 : y + 1, x - 1 : x + 2] = rng.choice(beside[beside < WALL])
    return rough.astype(np.uint8)


def says(plan: Plan) -> tuple[object, ...]:
    return tuple(room.id for room in plan.rooms), plan.connections, plan.positions


def keeps_the_promise(before: Plan, after: Plan) -> bool:
    """Rooms, connections and positions that were read are read again; specks may have taken numbers, so by places."""
    names = {}
    for room in before.rooms:
        if room.area_px >= cleaning.MIN_ROOM_PX:
            votes = np.bincount(after.instances[before.mask(room.id)], minlength=2)
            names[room.id] = after.rooms[int(votes[1:].argmax())].id
    positions = {(p.subject, p.direction, p.object) for p in after.positions}
    return (
        len(set(names.values())) == len(names) == len(after.rooms)
        and all(old.kind == new.kind for old, new in names.items())
        and all(
            (names[p.subject], p.direction, names[p.object]) in positions
            for p in before.positions
            if p.subject in names and p.object in names
        )
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_plan_stays_as_it_is(seed: int) -> None:
    plan = synthesise(seed, corner_doors=True).plan
    assert (clean(plan) == plan.labels).all()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_real_plan_stays_as_it_is(shared_data: Path, number: int) -> None:
    labels = real(shared_data, number)
    assert (clean(labels) == labels).all()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_even_the_whole_machinery_keeps_what_a_real_plan_says(
    shared_data: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "_RAGGED", -1.0)
    labels = real(shared_data, number)
    cleaned = clean(labels)
    assert says(annotate(cleaned)) == says(annotate(labels))
    assert (cleaned != labels).mean() < 0.005


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("jitter", [0.1, 0.3])
def test_rough_plans_keep_what_they_say(seed: int, jitter: float) -> None:
    rough = roughened(synthesise(seed, corner_doors=True).plan.labels, seed, jitter)
    before, after = annotate(rough), annotate(clean(rough))
    assert keeps_the_promise(before, after)
    # Without its specks the rough plan has the same names, so connections can be compared as they are.
    swept = annotate(without_specks(rough))
    assert after.connections == swept.connections
    assert {*swept.positions} <= {*after.positions}


@pytest.mark.parametrize("number", [0, 1, 3])
def test_rough_real_plans_keep_what_they_say(shared_data: Path, number: int) -> None:
    for seed in range(2):
        rough = roughened(real(shared_data, number), seed, 0.3)
        assert keeps_the_promise(annotate(rough), annotate(clean(rough)))


def test_most_rough_plans_become_straight_and_true_again() -> None:
    straight = true = 0
    for seed in range(8):
        plan = synthesise(seed, corner_doors=True).plan
        cleaned = clean(roughened(plan.labels, seed, 0.2))
        straight += raggedness(cleaned) < 0.1
        true += says(annotate(cleaned)) == says(plan)
    assert straight >= 6
    assert true >= 6


def test_specks_go_and_rooms_stay() -> None:
    plan = synthesise(1).plan
    labels = plan.labels.copy()
    y, x = np.argwhere(labels == 1)[len(np.argwhere(labels == 1)) // 2]
    labels[y : y + 2, x : x + 2] = 5
    labels[2:4, 2:4] = WALL
    assert (clean(labels) == plan.labels).all()


def test_a_door_becomes_a_rectangle_through_the_whole_wall() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[5:55, 5:75] = WALL
    labels[8:30, 8:72], labels[33:52, 8:72] = 1, 5
    truth = labels.copy()
    truth[30:33, 40:53] = DOOR
    truth[5:8, 20:38] = WINDOW
    rough = truth.copy()
    rough[30, 40:45], rough[32, 50:53], rough[29, 47] = 1, 5, DOOR
    rough[33, 10:70:4], rough[8, 10:70:4], rough[51, 9:70:5] = WALL, WALL, WALL
    assert raggedness(rough) > 0.5
    assert (clean(rough) == truth).all()


def test_wall_thickness_is_the_plans_own() -> None:
    shell = np.zeros((40, 40), bool)
    shell[5:8, 5:35] = True
    assert wall_thickness(shell) == 3
    shell[5:10, 5:35] = True
    assert wall_thickness(shell) == 5
    assert wall_thickness(np.zeros((4, 4), bool)) == 3


@pytest.mark.parametrize("value", [0, 1, WALL])
def test_images_without_a_plan_do_not_trouble_it(value: int) -> None:
    labels = np.full((64, 64), value, np.uint8)
    assert (clean(labels) == labels).all()
    noise = np.random.default_rng(0).integers(0, NUM_CLASSES, (24, 24)).astype(np.uint8)
    assert clean(noise).shape == noise.shape
