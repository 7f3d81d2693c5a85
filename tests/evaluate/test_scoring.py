"""Scores: which metrics are computed, what is said of the others, and when a figure is in doubt."""

import pytest

from loraloom.evaluate.scoring import Score, choose
from loraloom.protocols.evaluation import Available, Figure
from loraloom.utils.errors import UserError


def figure(value: float, better: int = 1) -> Figure:
    return Figure(name="clip_i", label="CLIP-I", better=better, value=value, low=value - 0.1, high=value + 0.1, count=8)


def score(value: float, base: float, real: float, better: int = 1, extractor: str = "builtin:mini") -> Score:
    anchors = {"base": figure(base, better), "held_out": figure(real, better)}
    return Score(metric="clip_i", figure=figure(value, better), anchors=anchors, extractor=extractor)  # pyright: ignore


def test_a_figure_is_in_doubt_where_real_images_score_surely_worse_than_the_base() -> None:
    """`mini`'s CLIP gives real plans in a style that it never saw less than the base."""
    assert score(0.5, base=0.6, real=0.1).doubt.startswith("clip_i is in doubt: real held-out images score worse")
    assert "builtin:mini does not read images of this kind" in score(0.5, base=0.6, real=0.1).doubt
    assert score(0.5, base=0.1, real=0.6, better=-1).doubt


def test_a_figure_is_not_in_doubt_where_intervals_meet_or_real_images_are_better() -> None:
    assert not score(0.5, base=0.4, real=0.9).doubt
    assert not score(0.5, base=0.6, real=0.45).doubt
    assert not score(0.5, base=0.9, real=0.1, better=-1).doubt
    assert not score(0.5, base=0.6, real=0.1, better=0).doubt
    assert not score(0.5, base=0.6, real=0.1, extractor="").doubt
    assert not Score(metric="clip_i", figure=figure(0.5), extractor="builtin:mini").doubt


def test_metrics_that_are_left_out_are_one_line_for_each_reason() -> None:
    said: list[str] = []
    there = Available(counts={"generated": 4}, prompts=4, most_seeds=2, verifies=False)
    chosen = choose((), there, {"vision": "no extractor"}, said.append)
    assert [metric.name for metric in chosen] == ["clip_score", "diversity"]
    assert len(said) == len({line.rpartition(": ")[2] for line in said})
    reasons = " ".join(said)
    assert (
        "left out: clip_i, cmmd, dino, fid, kid, memorisation, style, texture: it compares with reference images"
        in reasons
    )


def test_what_was_asked_for_by_name_and_cannot_be_computed_is_an_error() -> None:
    there = Available(counts={"generated": 4}, prompts=0, most_seeds=0, verifies=False)
    with pytest.raises(UserError, match="diversity cannot be computed: it needs two images of one prompt"):
        choose(("diversity",), there, {}, print)
    with pytest.raises(UserError, match="no metric can be computed"):
        choose((), there, {}, lambda line: None)
