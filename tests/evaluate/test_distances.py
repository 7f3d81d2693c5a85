"""Distances between sets of features agree with the reference implementations, and say how sure they are.

The stored values were computed on 2026-11-29 with clean-fid 0.1.35 (`frechet_distance`, `kernel_distance`), torchmetrics 1.9.0
(`_compute_fid`, `poly_mmd`) and the formula of google-research/cmmd `distance.py` at commit 4c42994, on `features(...)`.
Where torchmetrics is installed it is asked again.
"""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.extensions.metrics._distances import (
    auc,
    bootstrap,
    cmmd,
    frechet_distance,
    gaussian_mmd,
    half_sample_sd,
    kid,
    mean_cosines,
    nearest,
    polynomial_mmd,
)
from tests.evaluate.features import features

X, Y = features(60, 8, 0.1), features(50, 8, 0.4)
PARTS = st.integers(2, 30)


def names(rows: np.ndarray) -> list[str]:
    return [str(index) for index in range(len(rows))]


def test_frechet_distance_is_that_of_clean_fid_and_torchmetrics() -> None:
    assert frechet_distance(X, Y) == pytest.approx(0.7316082702802, abs=1e-6)


def test_frechet_distance_of_fewer_images_than_features_needs_no_epsilon() -> None:
    assert frechet_distance(X[:6], Y[:7]) == pytest.approx(1.4870161, abs=1e-5)


def test_the_kernel_distance_is_that_of_clean_fid_and_torchmetrics() -> None:
    assert polynomial_mmd(X[:50], Y) == pytest.approx(0.18474238077894, abs=1e-9)
    assert kid(X[:50], Y, seed=3) == polynomial_mmd(X[:50], Y)


def test_cmmd_is_that_of_its_reference() -> None:
    assert cmmd(X, Y) == pytest.approx(0.86142898589836, abs=1e-9)


def test_the_oracle_agrees_today_where_it_is_installed() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    kernel = pytest.importorskip("torchmetrics.image.kid")
    import torch

    moments = [torch.from_numpy(part) for rows in (X, Y) for part in (rows.mean(0), np.cov(rows, rowvar=False))]
    assert frechet_distance(X, Y) == pytest.approx(float(fid._compute_fid(*moments)), abs=1e-4)
    theirs = kernel.poly_mmd(torch.from_numpy(X[:50]), torch.from_numpy(Y))
    assert polynomial_mmd(X[:50], Y) == pytest.approx(float(theirs), abs=1e-4)


@given(PARTS, PARTS)
def test_blocks_of_kernel_rows_give_the_sum_over_all_pairs(first: int, second: int) -> None:
    """Written out pair by pair, as Gretton et al. 2012 have it."""
    x, y = features(first, 5, 0.2), features(second, 5, 0.3)

    def mean(a: np.ndarray, b: np.ndarray, *, same: bool) -> float:
        values = [
            np.exp(-((p - q) ** 2).sum() / 200)
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and i == j)
        ]
        return float(np.mean(values))

    wanted = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    assert gaussian_mmd(x, y, unbiased=True) == pytest.approx(wanted, abs=1e-12)


@given(PARTS, st.permutations(range(20)))
def test_distances_do_not_depend_on_the_order_of_images(count: int, order: list[int]) -> None:
    x = features(20, 6, 0.1)
    y = features(count, 6, 0.5)
    for distance in (frechet_distance, polynomial_mmd, partial(cmmd, unbiased=True)):
        assert distance(x[list(order)], y) == pytest.approx(distance(x, y), abs=1e-5)
        assert distance(y, x) == pytest.approx(distance(x, y), abs=1e-5)


def test_a_set_is_at_no_distance_from_itself() -> None:
    assert frechet_distance(X, X) == pytest.approx(0, abs=1e-9)
    assert cmmd(X, X) == pytest.approx(0, abs=1e-9)


def test_the_unbiased_estimates_are_zero_on_average_for_one_distribution_and_the_biased_one_is_not() -> None:
    rng = np.random.default_rng(7)
    halves = [rng.normal(size=(2, 40, 16)) for _ in range(200)]
    kernel = [polynomial_mmd(x, y) for x, y in halves]
    fair = [cmmd(x, y, unbiased=True) for x, y in halves]
    biased = [cmmd(x, y) for x, y in halves]
    assert abs(np.mean(kernel)) < 4 * np.std(kernel) / np.sqrt(200)
    assert abs(np.mean(fair)) < 4 * np.std(fair) / np.sqrt(200)
    assert np.mean(biased) > 20 * np.std(fair) / np.sqrt(200)


def test_the_deviation_of_halves_is_the_spread_of_the_distance_over_fresh_sets() -> None:
    rng = np.random.default_rng(3)

    def fresh() -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(60, 6)), rng.normal(size=(60, 6)) + 0.7

    spread = float(np.std([polynomial_mmd(*fresh()) for _ in range(200)]))
    told: list[float] = []
    for _ in range(10):
        x, y = fresh()
        sd = half_sample_sd(polynomial_mmd, x, y, (names(x), names(y)), 0)
        assert sd is not None
        told.append(sd)
    assert 0.6 * spread < np.mean(told) < 1.6 * spread


def test_images_of_one_prompt_are_left_out_together() -> None:
    """Ten copies of each of six images are six images: the deviation must not shrink with the copies."""
    rng = np.random.default_rng(5)
    few, y = rng.normal(size=(6, 1)), rng.normal(size=(600, 1))
    x = np.repeat(few, 10, axis=0)
    groups = [str(index // 10) for index in range(60)]

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.mean() - b.mean())

    together = half_sample_sd(difference, x, y, (groups, names(y)), 0)
    apart = half_sample_sd(difference, x, y, (names(x), names(y)), 0)
    assert together is not None
    assert apart is not None
    assert together > 1.5 * apart


def test_an_interval_of_fewer_than_four_prompts_is_not_given() -> None:
    values = np.arange(12.0)
    assert bootstrap(values, [str(index // 4) for index in range(12)], 0) is None
    assert bootstrap(values, [str(index // 3) for index in range(12)], 0) is not None
    assert bootstrap(values, ["one prompt"] * 12, 0) is not None
    assert bootstrap(values[:3], ["one prompt"] * 3, 0) is None


def test_bootstrap_intervals_hold_the_true_mean_in_most_samples() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for number in range(200):
        values = rng.normal(size=30)
        interval = bootstrap(values, names(values), number)
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert 175 <= hits <= 200


def test_bootstrap_resamples_prompts_not_images() -> None:
    rng = np.random.default_rng(2)
    prompts = rng.normal(size=8)
    values = np.repeat(prompts, 20)
    grouped = bootstrap(values, [str(index // 20) for index in range(160)], 0)
    alone = bootstrap(values, names(values), 0)
    assert grouped is not None
    assert alone is not None
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_the_right_order(own: list[int], other: list[int]) -> None:
    wins = sum((a > b) + 0.5 * (a == b) for a in own for b in other)
    assert auc(np.array(own, float), np.array(other, float)) == pytest.approx(wins / (len(own) * len(other)))


def test_cosines_are_those_of_every_pair() -> None:
    x, y = features(7, 5, 0.1), features(9, 5, 0.9)
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])
    assert mean_cosines(x, y) == pytest.approx(cosines.mean(1))
    best, place = nearest(x, y)
    assert best == pytest.approx(cosines.max(1))
    assert list(place) == list(cosines.argmax(1))
