"""Metres per pixel from doors, with error bars, and "cannot tell"."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.floorplan.plan import annotate
from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.vision.scale import CONVENTION, areas, estimate, given
from loraloom.extensions.domains.floorplan.vocabulary import DOOR, FRONT_DOOR, M_PER_PX, STYLES, WALL


def two_rooms(*doors: tuple[int, int], front: int = 0) -> np.ndarray:
    """A living room above a bedroom; doors by (left, length) in the wall between them."""
    labels = np.zeros((100, 200), np.uint8)
    labels[5:95, 5:195] = WALL
    labels[8:50, 8:192], labels[53:92, 8:192] = 1, 5
    for left, length in doors:
        labels[50:53, left : left + length] = DOOR
    labels[5:8, 20 : 20 + front] = FRONT_DOOR
    return labels


def test_the_convention_is_exact() -> None:
    assert CONVENTION.m_per_px == M_PER_PX == 18 / 256
    assert CONVENTION.exact
    assert CONVENTION.mm_per_px == 70.3125


def test_one_door_tells_the_scale_with_an_interval() -> None:
    scale = estimate(annotate(two_rooms((30, 18))))
    assert scale is not None
    assert scale.m_per_px == pytest.approx(0.05)
    assert scale.low < 0.04 + 0.001
    assert scale.high > 0.06
    assert not scale.exact
    assert "1 door," in scale.source


def test_more_doors_narrow_it_but_not_below_what_they_share() -> None:
    one = estimate(annotate(two_rooms((30, 13))))
    many = estimate(annotate(two_rooms((30, 13), (60, 13), (90, 13), (120, 13), front=14)))
    assert one and many
    assert many.high / many.low < one.high / one.low
    assert many.high / many.m_per_px > 1.2


def test_cannot_tell() -> None:
    assert estimate(annotate(two_rooms())) is None
    assert estimate(annotate(two_rooms((30, 13), front=30))) is not None  # the wide front door says nothing
    square = two_rooms()
    square[50:53, 30:33] = DOOR
    assert estimate(annotate(square)) is None


def test_doors_that_contradict_each_other_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraloom.extensions.domains.floorplan.vision import scale

    monkeypatch.setattr(scale, "_SINGLE_LEAF", 3.0)
    assert estimate(annotate(two_rooms((30, 10), (60, 25), (120, 28)))) is None


@pytest.mark.parametrize("seed", range(8))
def test_the_true_scale_lies_within_the_interval_of_drawn_plans(seed: int) -> None:
    scale = estimate(synthesise(seed, corner_doors=True).plan)
    assert scale is None or scale.low < M_PER_PX < scale.high


@pytest.mark.parametrize("number", [0, 1, 3])
def test_and_within_that_of_real_plans(shared_data: Path, number: int) -> None:
    rgb = np.asarray(Image.open(shared_data / "sjh" / f"{number}.png").convert("RGB"))
    labels = (rgb[:, :, None] == STYLES["sjh"].palette).all(-1).argmax(-1).astype(np.uint8)
    scale = estimate(annotate(labels))
    assert scale is not None
    assert scale.low < M_PER_PX < scale.high


def test_areas_have_intervals_only_when_the_scale_has() -> None:
    plan = annotate(two_rooms((30, 18)))
    living, bedroom = areas(plan, given(0.1))
    assert living.m2 == pytest.approx(42 * 184 * 0.01)
    assert living.low == living.high == living.m2
    assert str(bedroom) == "71.8 m²"
    scale = estimate(plan)
    assert scale
    rough = areas(plan, scale)[0]
    assert rough.low < rough.m2 < rough.high
    assert " - " in str(rough)
