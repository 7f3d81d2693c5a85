"""Outlines and rectangles of masks are exact: filled again they give the mask back."""

import numpy as np
import pytest

from loraloom.extensions.domains.floorplan.synthesis import synthesise
from loraloom.extensions.domains.floorplan.vision.outlines import Ring, fill, outline, polygons, rectangles


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


def signed_area(ring: Ring) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)) / 2


def test_a_square_is_counter_clockwise_on_the_image() -> None:
    assert outline(mask("....", ".##.", ".##.", "....")) == [((1, 1), (1, 3), (3, 3), (3, 1))]


def test_a_hole_follows_its_outer_ring_clockwise() -> None:
    outer, hole = outline(mask("####", "#..#", "####"))
    assert signed_area(outer) == -12
    assert signed_area(hole) == 2


def test_components_that_meet_at_a_corner_are_apart() -> None:
    first, second = polygons(mask("#.", ".#"))
    assert first.outer == ((0, 0), (0, 1), (1, 1), (1, 0))
    assert second.outer == ((1, 1), (1, 2), (2, 2), (2, 1))


def test_a_component_that_meets_itself_at_a_corner_has_a_hole_that_touches_its_border() -> None:
    shape = mask("###", "#.#", "##.")
    (polygon,) = polygons(shape)
    assert len(polygon.holes) == 1
    assert set(polygon.outer) & set(polygon.holes[0]) == {(2, 2)}
    assert (fill(polygon.rings, shape.shape) == shape).all()


def test_random_masks_come_back_and_rings_are_simple() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = rng.random((int(rng.integers(1, 12)), int(rng.integers(1, 12)))) < rng.random()
        rings = outline(shape)
        assert (fill(rings, shape.shape) == shape).all()
        for ring in rings:
            assert len(set(ring)) == len(ring)
            sides = [(a[0] == b[0], a[1] == b[1]) for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)]
            assert all(
                one != other for one, other in zip(sides, (*sides[1:], sides[0]), strict=True)
            )  # each corner turns
        covered = np.zeros(shape.shape, int)
        for left, top, right, bottom in rectangles(shape):
            covered[top:bottom, left:right] += 1
        assert (covered == shape).all()


@pytest.mark.parametrize("seed", range(3))
def test_every_class_of_a_plan_comes_back(seed: int) -> None:
    labels = synthesise(seed).plan.labels
    for label in np.unique(labels):
        assert (fill(outline(labels == label), labels.shape) == (labels == label)).all()


def test_walls_become_few_straight_pieces() -> None:
    pieces = rectangles(mask("#####", "#...#", "#####"))
    assert pieces[:2] == [(0, 0, 5, 1), (0, 2, 5, 3)]
    assert len(pieces) == 4


def test_fill_takes_slanted_lines_and_leaves_the_image() -> None:
    triangle = fill([[(0, 0), (4, 0), (0, 4)]], (4, 4))
    # Centres on the diagonal itself do not belong to what lies to their left.
    assert (triangle == (np.add.outer(np.arange(4), np.arange(4)) < 3)).all()
    assert fill([[(-5, -5), (50, -5), (50, 50), (-5, 50)]], (3, 7)).all()
    assert not fill([], (3, 3)).any()


def test_an_empty_mask_has_no_outline() -> None:
    assert outline(np.zeros((3, 3), bool)) == []
    assert rectangles(np.zeros((3, 3), bool)) == []
