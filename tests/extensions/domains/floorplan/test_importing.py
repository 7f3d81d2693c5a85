"""Importers: plans that we synthesize, written in the form of a public dataset, come back as the same plans."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from loraloom.config.prepare import PrepareConfig
from loraloom.extensions.domains.floorplan.importing import run as importing
from loraloom.extensions.domains.floorplan.importing.raster import add_windows
from loraloom.extensions.domains.floorplan.importing.run import Job, choose_source, import_plans
from loraloom.extensions.domains.floorplan.plan import Plan, annotate
from loraloom.extensions.domains.floorplan.render.painting import labels_of_exact
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.text.spec import parse_spec, print_spec, spec_of
from loraloom.extensions.domains.floorplan.vocabulary import (
    CLASS_NAMES,
    DOOR,
    EXTERNAL,
    FRONT_DOOR,
    ROOM_CLASSES,
    WALL,
    WINDOW,
)
from loraloom.prepare.run import prepare
from loraloom.utils.errors import UserError

SEEDS = (1, 2, 3, 4)
Labels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """Synthesized plans without windows, which none of the datasets has."""
    found: dict[str, Plan] = {}
    for seed in SEEDS:
        labels = synthesise(seed).plan.labels.copy()
        labels[labels == WINDOW] = WALL
        found[str(seed)] = annotate(labels)
    return found


def outside_walls(labels: Labels) -> NDArray[np.bool_]:
    """Wall pixels near the outside."""
    return (labels == WALL) & ndimage.binary_dilation(labels == EXTERNAL, np.ones((3, 3)), iterations=5)


def as_rplan(plan: Plan, path: Path) -> None:
    """Four channels: exterior wall and front door, category, room instance, inside."""
    codes = {"living room": 0, "master room": 1, "kitchen": 2, "bathroom": 3, "bedroom": 7, "balcony": 9}
    codes |= {"entrance": 10, "storage": 11, "external": 13, "wall": 16, "front door": 15, "interior door": 17}
    labels = plan.labels
    category = np.array([codes.get(name, 16) for name in CLASS_NAMES], np.uint8)[labels]
    outer = outside_walls(labels)
    category[outer] = 14
    red = np.where(outer, 127, np.where(labels == FRONT_DOOR, 255, 0)).astype(np.uint8)
    inside = np.where((labels == EXTERNAL) | outer | (labels == FRONT_DOOR), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([red, category, plan.instances, inside])).save(path)


def as_tell2design(plan: Plan, path: Path) -> None:
    """Rooms and exterior walls in the dataset's colours; interior walls and doors are white."""
    colours = {"living room": (238, 232, 170), "master room": (255, 165, 0), "bedroom": (255, 215, 0)}
    colours |= {"kitchen": (240, 128, 128), "bathroom": (173, 216, 230), "balcony": (107, 142, 35)}
    colours |= {"storage": (221, 160, 221), "entrance": (255, 255, 0), "front door": (255, 0, 0)}
    table = np.array([colours.get(name, (255, 255, 255)) for name in CLASS_NAMES], np.uint8)
    pixels = table[plan.labels]
    pixels[outside_walls(plan.labels)] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def as_housegan(plan: Plan, path: Path, shuffled: bool = False) -> None:
    """Rooms as chains of edges through their outermost pixels, doors as boxes of the whole wall."""
    codes = {"living room": 1, "master room": 3, "kitchen": 2, "bathroom": 4, "bedroom": 3, "balcony": 5}
    codes |= {"entrance": 6, "storage": 10}
    value: dict[str, Any] = {"room_type": [], "boxes": [], "edges": [], "ed_rm": []}

    def add(code: int, corners: list[tuple[int, int]]) -> None:
        place = len(value["room_type"])
        xs, ys = zip(*corners, strict=True)
        value["room_type"].append(code)
        value["boxes"].append([float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))])
        edges = [[*map(float, one), *map(float, two), code, 0] for one, two in zip(corners, corners[1:] + corners[:1])]  # noqa: B905
        value["edges"] += edges[::-1] if shuffled else edges
        value["ed_rm"] += [[place]] * len(edges)

    for room in plan.rooms:
        add(codes[room.id.kind], corners_of(plan.mask(room.id)))
    for opening in plan.openings:
        left, top, right, bottom = opening.box
        code = 17 if opening.kind == "interior door" else 15
        add(code, [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def corners_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The corner pixels of a rectilinear area without holes, in order: the outline of its pixels' centres."""
    from loraloom.extensions.domains.floorplan.vision.outlines import outline

    ring = [(round(x), round(y)) for x, y in outline(mask)[0]]
    return [(x - 1 if not inside(mask, x, y, 0) else x, y - 1 if not inside(mask, x, y, 1) else y) for x, y in ring]


def inside(mask: NDArray[np.bool_], x: int, y: int, axis: int) -> bool:
    """Whether at a corner of the outline the pixels to the right (axis 0) or below (axis 1) are the area's."""
    padded = np.pad(mask, 1)
    around = padded[y : y + 2, x : x + 2]  # the four pixels at the corner
    full = int(around.sum()) == 3
    if axis == 0:
        return bool(around[:, 1].all() or (not full and around[:, 1].any()))
    return bool(around[1].all() or (not full and around[1].any()))


def imported(folder: Path, out: Path, **given: Any) -> tuple[dict[str, tuple[str, Labels]], list[str]]:
    """Text and pixel classes by name, and the lines for the user."""
    lines: list[str] = []
    strict = given.pop("strict", False)
    source, items = choose_source(folder, given.pop("source", "auto"))
    job = Job(**{"out": out, "source": source.name, "style": "sjh", "words": "auto", "windows": False, **given})
    import_plans(items, job, say=lines.append, strict=strict)
    found: dict[str, tuple[str, Labels]] = {}
    for path in sorted((out / "input_text").glob("*.txt")):
        image = np.asarray(Image.open(out / "label_floorplan" / f"{path.stem}.png").convert("RGB"))
        found[path.stem] = path.read_text(encoding="utf-8"), labels_of_exact(image)
    return found, lines


def test_an_rplan_image_becomes_the_same_plan_with_its_exact_text(plans: dict[str, Plan], tmp_path: Path) -> None:
    for name, plan in plans.items():
        as_rplan(plan, tmp_path / f"rplan/{name}.png")
    found, lines = imported(tmp_path / "rplan", tmp_path / "out")
    assert not [line for line in lines if "too thick" not in line]
    for name, plan in plans.items():
        assert np.array_equal(found[name][1], plan.labels)
        assert found[name][0] == print_spec(spec_of(plan))


def test_rooms_that_our_words_lack_are_merged_and_counted(plans: dict[str, Plan], tmp_path: Path) -> None:
    as_rplan(plans["1"], tmp_path / "rplan/1.png")
    pixels = np.asarray(Image.open(tmp_path / "rplan/1.png")).copy()
    left = np.arange(256)[None, :] < int(np.nonzero(pixels[:, :, 1] == 0)[1].mean())
    pixels[(pixels[:, :, 1] == 0) & left, 1] = 4  # half of the living room is for dining
    Image.fromarray(pixels).save(tmp_path / "rplan/1.png")
    found, lines = imported(tmp_path / "rplan", tmp_path / "out")
    assert np.array_equal(found["1"][1], plans["1"].labels)
    assert lines == ["  1 of 1: its dining room is read as a part of the living room"]


def test_a_tell2design_image_gets_its_walls_back_and_keeps_its_words(plans: dict[str, Plan], tmp_path: Path) -> None:
    place = tmp_path / "General Data"
    for name, plan in plans.items():
        as_tell2design(plan, place / f"floorplan_image/{name}.png")
    (place / "human_annotated_tags").mkdir()
    (place / "human_annotated_tags/1.txt").write_text("A living room in the middle.", encoding="utf-8")
    rows = [{"img_id": "2", "annotated_strings": "The kitchen is north.", "rooms": []}]
    (tmp_path / "floorplan_test.json").write_text(json.dumps(rows), encoding="utf-8")
    found, lines = imported(tmp_path, tmp_path.with_name(f"{tmp_path.name}-out"))
    assert found["1"][0] == "A living room in the middle."
    assert found["2"][0] == "The kitchen is north."
    for name, plan in plans.items():
        labels = found[name][1]
        same = np.isin(plan.labels, [*ROOM_CLASSES, EXTERNAL, FRONT_DOOR])
        assert np.array_equal(labels[same], plan.labels[same])
        assert (labels[plan.labels == WALL] == WALL).all()
    spec = parse_spec(found["3"][0])
    assert spec.connections is None  # it says nothing of what the image does not show
    assert dict(spec.counts or ()) == plans["3"].counts
    assert any("4 of 4: the image shows no interior doors: connections are unknown" in line for line in lines)


def test_a_housegan_file_becomes_the_same_rooms_doors_and_connections(plans: dict[str, Plan], tmp_path: Path) -> None:
    for name, plan in plans.items():
        as_housegan(plan, tmp_path / f"json/{name}.json", shuffled=name == "2")
    found, lines = imported(tmp_path / "json", tmp_path / "out")
    assert not any("outline of a room" in line for line in lines), lines
    for name, plan in plans.items():
        made = annotate(found[name][1])
        for kind, count in made.counts.items():
            wanted = plan.counts[kind]
            if kind == "bedroom":  # the dataset knows no master room
                wanted += plan.counts["master room"]
            assert count == (0 if kind == "master room" else wanted)
        rooms = np.isin(plan.labels, list(ROOM_CLASSES))
        assert np.array_equal(np.isin(found[name][1], list(ROOM_CLASSES)), rooms)
        assert len(made.connections) == len(plan.connections)
        assert (found[name][1] == DOOR).sum() == (plan.labels == DOOR).sum()


def test_windows_are_added_to_outer_walls_only_and_every_large_room_gets_one(plans: dict[str, Plan]) -> None:
    for plan in plans.values():
        labels = add_windows(plan.labels)
        assert ((labels == plan.labels) | (labels == WINDOW)).all()
        assert (plan.labels[labels == WINDOW] == WALL).all()
        made = annotate(labels)
        windows = [opening for opening in made.openings if opening.kind == "window"]
        assert windows
        assert all(len(opening.rooms) == 1 for opening in windows)
        kinds = {room.kind for opening in windows for room in opening.rooms}
        assert "living room" in kinds or "master room" in kinds


def test_an_interrupted_import_continues_and_a_finished_one_is_kept(
    plans: dict[str, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, plan in plans.items():
        as_rplan(plan, tmp_path / f"rplan/{name}.png")
    real, done = importing.annotate, list[int]()

    def stopping(labels: Labels) -> Plan:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(labels)

    monkeypatch.setattr(importing, "annotate", stopping)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path / "rplan", tmp_path / "out")
    assert not (tmp_path / "out/splits.json").exists()
    found, _ = imported(tmp_path / "rplan", tmp_path / "out")
    assert len(found) == len(done) - 1 == 4
    imported(tmp_path / "rplan", tmp_path / "out")
    assert len(done) == 5
    with pytest.raises(UserError, match="other settings"):
        imported(tmp_path / "rplan", tmp_path / "out", windows=True)


def test_prepare_reads_what_was_imported_with_its_split(plans: dict[str, Plan], tmp_path: Path) -> None:
    for name, plan in plans.items():
        as_rplan(plan, tmp_path / f"rplan/{name}.png")
    found, _ = imported(tmp_path / "rplan", tmp_path / "out")
    config = PrepareConfig(domain="floorplan", size=256, resample="nearest", num_workers=1)
    report = prepare(tmp_path / "out", tmp_path / "dataset", config, console=lambda line: None)
    assert {example.id: example.caption for example in report.manifest.examples} == {
        name: text.strip() for name, (text, _) in found.items()
    }
    assert not [problem for problem in report.problems if "splits" in problem.file]


def test_what_cannot_be_imported_is_listed_with_its_reason(plans: dict[str, Plan], tmp_path: Path) -> None:
    as_rplan(plans["1"], tmp_path / "rplan/1.png")
    Image.new("RGB", (256, 256)).save(tmp_path / "rplan/rgb.png")
    Image.new("RGBA", (256, 256), (0, 99, 0, 0)).save(tmp_path / "rplan/codes.png")
    Image.new("RGBA", (256, 256), (0, 13, 0, 0)).save(tmp_path / "rplan/empty.png")
    (tmp_path / "rplan/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found, lines = imported(tmp_path / "rplan", tmp_path / "out")
    assert list(found) == ["1"]
    rows = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["plan"] for row in rows) == ["broken", "codes", "empty", "rgb"]
    assert sum("not imported" in line for line in lines) >= 3
    with pytest.raises(UserError, match="--strict is on"):
        imported(tmp_path / "rplan", tmp_path / "strict", strict=True)
    with pytest.raises(UserError, match="none of the known layouts"):
        choose_source(tmp_path / "out", "auto")


@pytest.mark.parametrize(
    "harm",
    [
        {"room_type": "x"},
        {"boxes": [[0, 0, 1e9, 1]]},
        {"ed_rm": [[99]]},
        {"edges": [[1, 2]]},
        {"room_type": [True, 1]},
        {"boxes": []},
    ],
)
def test_a_housegan_file_of_wrong_numbers_is_refused(
    harm: dict[str, Any], plans: dict[str, Plan], tmp_path: Path
) -> None:
    as_housegan(plans["1"], tmp_path / "json/1.json")
    as_housegan(plans["2"], tmp_path / "json/2.json")
    value = json.loads((tmp_path / "json/2.json").read_text(encoding="utf-8"))
    (tmp_path / "json/2.json").write_text(json.dumps({**value, **harm}), encoding="utf-8")
    found, lines = imported(tmp_path / "json", tmp_path / "out")
    assert list(found) == ["1"]
    assert any("1 not imported" in line for line in lines)
