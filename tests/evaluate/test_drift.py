"""Drift and its share, computed by hand from embeddings of pairs."""

from collections.abc import Sequence

import numpy as np
import pytest

from loraloom.extensions.metrics.drift import METRIC, DriftState
from loraloom.protocols.evaluation import Figure, MetricSetup


def figures(on: Sequence[np.ndarray], off: Sequence[np.ndarray]) -> dict[str, Figure]:
    state = METRIC.start(MetricSetup())
    assert isinstance(state, DriftState)
    for role, rows in (("drift", on), ("drift_base", off)):
        for number, row in enumerate(rows):
            state.add(role, f"{number:05d}", row, f"prompt {number}")
    return {figure.name: figure for figure in state.compute()}


def test_an_adapter_that_gives_each_prompt_the_image_of_the_next_drifts_by_one_share() -> None:
    off = list(np.eye(5, dtype=np.float32) + 0.5)
    found = figures(off[1:] + off[:1], off)
    assert found["drift_share"].value == pytest.approx(1)
    cosine = off[0] @ off[1] / np.linalg.norm(off[0]) ** 2
    assert found["drift"].value == pytest.approx((1 - cosine) / 2)


def test_no_change_is_no_share_and_every_pair_has_a_value() -> None:
    off = list(np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32))
    found = figures(off, off)
    assert found["drift_share"].value == pytest.approx(0, abs=1e-6)
    assert set(found["drift_share"].values) == {f"{number:05d}" for number in range(5)}
    assert found["drift_share"].low is not None


def test_the_share_says_nothing_where_the_base_gives_one_image_for_all_prompts() -> None:
    same = [np.ones(4, np.float32)] * 5
    found = figures(list(np.eye(5, 4, dtype=np.float32)), same)
    assert found["drift_share"].value is None
    assert "all unrelated images are alike" in found["drift_share"].says_nothing
