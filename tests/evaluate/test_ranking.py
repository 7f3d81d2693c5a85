"""The leaderboard of a sweep: scores by hand, what is called underfitted and overfitted, and when nobody can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.evaluate.ranking import Estimate, Ranking, Scored, group_means, prompts_to_tell, rank
from loraloom.evaluate.sweep_words import advice_lines, verdict_lines
from loraloom.protocols.evaluation import Figure

PROMPTS = [f"prompt {number}" for number in range(8)]
UNRELATED = [f"other {number}" for number in range(6)]
NOISE = np.linspace(-1, 1, 8)


def figure(name: str, value: float, **more: float) -> Figure:
    return Figure(name=name, label=name, better=1, value=value, count=8, **more)  # pyright: ignore[reportArgumentType]


def cell(
    step: int,
    scale: float,
    style: float | Sequence[float],
    drift: float | Sequence[float] = 0.0,
    clip: float = 30.0,
    copies: float = 0.0,
    *,
    average: bool = False,
    num_prompts: int = 8,
) -> Scored:
    """A setting; numbers are the same for each prompt, with a little noise that is the same in every setting."""
    prompts = PROMPTS[:num_prompts]
    styles = np.broadcast_to(style, len(prompts)) + 0.01 * NOISE[: len(prompts)]
    drifts = np.broadcast_to(drift, len(UNRELATED)) * (1 + 0.05 * NOISE[:6])
    clips = clip + NOISE[: len(prompts)]
    name = f"ema_{step}" if average else f"step_{step}"
    return Scored(
        name=f"{name}/{scale}",
        label=f"{'EMA' if average else 'step'} {step} at {scale}",
        step=step,
        scale=scale,
        candidate=name,
        is_average=average,
        figures={
            "style": figure("style", float(np.mean(styles))),
            "clip_score": figure("clip_score", float(np.mean(clips))),
            "copies": figure("copies", copies),
        },
        by_group={
            "style": dict(zip(prompts, map(float, styles), strict=True)),
            "clip_score": dict(zip(prompts, map(float, clips), strict=True)),
            "drift_share": dict(zip(UNRELATED, map(float, drifts), strict=True)),
        },
    )


BASE = cell(0, 0.0, 0.2)
REAL: Mapping[str, Figure] = {
    "style": figure("style", 0.4),
    "clip_score": figure("clip_score", 29.0),
    "copies": figure("copies", 0.0),
}


def ranked(
    cells: Sequence[Scored], held_out: Mapping[str, Figure] = REAL, base: Scored = BASE, weight: float = 0.5
) -> Ranking:
    return rank(
        cells, base, held_out, ranked_by="style", fit="clip_score", drift_weight=weight, prompt_weight=1.0, seed=0
    )


def verdicts(ranking: Ranking) -> dict[str, str]:
    return {row.cell.label: row.verdict for row in ranking.rows}


def test_the_score_is_the_share_of_the_way_to_real_images_minus_weighted_drift() -> None:
    ranking = ranked([cell(100, 1.0, 0.3, 0.2), cell(200, 1.0, 0.36, 0.1)])
    assert [row.cell.step for row in ranking.rows] == [200, 100]
    first, second = ranking.rows
    assert (first.gain.value, second.gain.value) == (pytest.approx(0.8), pytest.approx(0.5))
    assert first.score.value == pytest.approx(0.8 - 0.5 * 0.1, abs=1e-3)
    assert first.drift is not None
    assert first.drift.low is not None
    assert first.drift.low < 0.1 < (first.drift.high or 0)
    assert ranking.unit == "the difference of real held-out images to the base"


def test_without_held_out_images_the_largest_gain_counts_as_one() -> None:
    ranking = ranked([cell(100, 1.0, 0.25), cell(200, 1.0, 0.3)], {})
    assert [round(row.gain.value, 3) for row in ranking.rows] == [1.0, 0.5]
    assert ranking.unit == "the largest gain of this sweep"


def test_the_same_for_every_setting_is_no_noise_of_their_difference() -> None:
    """All settings have the same prompts and seeds: what a prompt does to every setting must not widen a difference."""
    wide = 30 * NOISE * 0.01
    ranking = ranked([cell(100, 1.0, 0.30 + wide), cell(200, 1.0, 0.31 + wide)], base=cell(0, 0.0, 0.2))
    (second,) = ranking.others
    assert ranking.advised.gain.low is not None
    assert second.behind is not None
    assert second.behind.shows_difference
    assert second.behind.value == pytest.approx(0.05)


def test_a_difference_within_its_interval_is_said_to_be_none_that_these_images_can_show() -> None:
    other = 0.3 + 0.05 * np.array([1, -1, 1, -1, 1, -1, 1, -1.0])
    ranking = ranked([cell(100, 1.0, 0.302), cell(200, 1.0, other)])
    (second,) = ranking.others
    assert second.equal
    (line,) = [line for line in advice_lines(ranking) if line.startswith("next:")]
    assert "no difference that this many images can show (8 prompts; about " in line


def test_three_prompts_give_no_interval_and_nobody_tells_settings_apart() -> None:
    cells = [cell(100, 1.0, 0.3, num_prompts=3), cell(200, 1.0, 0.35, num_prompts=3)]
    ranking = ranked(cells, base=cell(0, 0.0, 0.2, num_prompts=3))
    assert ranking.advised.score.low is None
    assert ranking.advised.first_share is None
    assert any("3 prompts give no interval (it takes 4)" in line for line in advice_lines(ranking))


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_a_run_that_is_no_nearer_than_the_base_is_underfitted() -> None:
    ranking = ranked([cell(100, 1.0, 0.2 + 0.03 * NOISE), cell(200, 1.0, 0.205 + 0.03 * NOISE)])
    assert set(verdicts(ranking).values()) == {"underfitted"}
    assert verdict_lines(ranking)[0].startswith("underfitted: at no checkpoint and scale")
    assert "(underfitted, and the best there is)" in advice_lines(ranking)[0]


def test_a_large_gain_with_a_wide_interval_is_unsure_and_not_called_underfitted() -> None:
    ranking = ranked([cell(100, 1.0, 0.3 + 0.4 * NOISE), cell(50, 1.0, 0.2 + 0.05 * NOISE)])
    assert verdicts(ranking) == {"step 100 at 1.0": "unsure", "step 50 at 1.0": "underfitted"}
    assert verdict_lines(ranking)[0].startswith("unsure: ")
    assert ranking.advised.cell.step == 100


def test_a_later_checkpoint_that_gains_no_more_and_drifts_more_is_overfitted() -> None:
    ranking = ranked([cell(100, 1.0, 0.3, 0.1), cell(200, 1.0, 0.32, 0.15), cell(300, 1.0, 0.31, 0.4)])
    assert verdicts(ranking) == {"step 100 at 1.0": "good", "step 200 at 1.0": "good", "step 300 at 1.0": "overfitted"}
    (row,) = [row for row in ranking.rows if row.verdict == "overfitted"]
    assert row.reasons[0].startswith("it gains no more than step 200 at 1.0 (55% against 60%) and drifts surely more")
    assert verdict_lines(ranking)[0].startswith("overfitted at scale 1 from step 300 on: it gains no more")
    assert ranking.advised.cell.step == 200


def test_an_average_is_not_called_overfitted_because_a_checkpoint_did_as_well() -> None:
    ranking = ranked([cell(100, 1.0, 0.3, 0.1), cell(300, 1.0, 0.29, 0.4, average=True)])
    assert verdicts(ranking)["EMA 300 at 1.0"] == "good"


def test_images_that_are_copies_or_ignore_prompts_are_overfitted_whatever_their_score() -> None:
    ranking = ranked([cell(100, 1.0, 0.3), cell(200, 1.0, 0.39, copies=0.25), cell(300, 1.0, 0.38, clip=20.0)])
    assert verdicts(ranking) == {
        "step 100 at 1.0": "good",
        "step 200 at 1.0": "overfitted",
        "step 300 at 1.0": "overfitted",
    }
    reasons = {row.cell.step: row.reasons for row in ranking.rows}
    assert reasons[200] == ("25% of its images are copies of training images (base or held-out: 0%)",)
    assert reasons[300] == ("it follows prompts 30% less than the base and real images",)
    assert ranking.advised.cell.step == 100, "an overfitted setting is not advised"


def test_images_nearer_to_training_images_than_real_ones_are_overfitted() -> None:
    near = figure("nearest_cosine", 0.95, low=0.92, high=0.98)
    usual = figure("nearest_cosine", 0.8, low=0.75, high=0.85)
    good = cell(100, 1.0, 0.3)
    close = replace(good, name="close", label="close", figures={**good.figures, "nearest_cosine": near})
    found = verdicts(ranked([good, close], {**REAL, "nearest_cosine": usual}))
    assert found == {"step 100 at 1.0": "good", "close": "overfitted"}


def test_following_prompts_no_less_than_real_images_do_is_no_fault() -> None:
    """Images of the base often have a higher CLIP score than real images of the same captions."""
    assert verdicts(ranked([cell(100, 1.0, 0.3, clip=26.5)])) == {"step 100 at 1.0": "good"}


def test_following_prompts_less_lowers_the_score_and_following_them_more_does_not_raise_it() -> None:
    ranking = ranked([cell(100, 1.0, 0.3, clip=27.5), cell(200, 1.0, 0.3, clip=35.0), cell(300, 1.0, 0.3, clip=29.0)])
    scores = {row.cell.step: row.score.value for row in ranking.rows}
    assert scores[100] == pytest.approx(0.5 - 1.5 / 30)
    assert scores[200] == scores[300] == pytest.approx(0.5)


def test_an_extractor_that_does_not_read_real_images_of_a_style_is_said() -> None:
    """A drawn style lowered CLIP's score of real images to a sixth: settings that lost their prompts had no loss."""
    (note,) = ranked([cell(100, 1.0, 0.3)], {**REAL, "clip_score": figure("clip_score", 5.0)}).notes
    assert note.startswith(
        "clip_score of real held-out images is 83% below the base's: it hardly reads images of this kind"
    )


def test_a_run_whose_last_checkpoint_is_best_is_said_to_be_still_learning() -> None:
    ranking = ranked([cell(100, 1.0, 0.25, 0.1), cell(200, 1.0, 0.35, 0.12)])
    assert verdict_lines(ranking) == [
        "not overfitted at the advised scale: the last checkpoint is the best one, so more steps may gain more"
    ]


def test_a_best_scale_at_the_end_of_the_range_asks_for_more_of_them() -> None:
    ranking = ranked([cell(100, 0.4, 0.25), cell(100, 0.8, 0.3), cell(100, 1.2, 0.35)])
    assert verdict_lines(ranking) == [
        "the advised scale is the largest of this sweep: larger --scales may score higher"
    ]
    ranking = ranked([cell(100, 0.4, 0.35), cell(100, 0.8, 0.3)])
    assert "smaller --scales" in verdict_lines(ranking)[-1]


def test_every_gaining_setting_overfitted_is_said_and_the_best_of_them_is_marked() -> None:
    ranking = ranked([cell(100, 1.0, 0.3, copies=0.5), cell(200, 1.0, 0.35, copies=0.6)])
    assert verdict_lines(ranking)[0].startswith("overfitted: every setting that surely gains is overfitted")
    assert "(overfitted, and the best there is)" in advice_lines(ranking)[0]


def test_one_setting_is_advised_without_a_comparison() -> None:
    assert "it is the only setting" in advice_lines(ranked([cell(100, 1.0, 0.3)]))[1]


# ------------------------------------------------------------------------------------------------------------ figures


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_any_figures_give_one_row_for_each_setting_in_order_of_score(pairs: list[tuple[float, float]]) -> None:
    cells = [cell(100 * number, 1.0, style, drift) for number, (style, drift) in enumerate(pairs, 1)]
    ranking = ranked(cells)
    scores = [row.score.value for row in ranking.rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(row.cell.name for row in ranking.rows) == sorted(one.name for one in cells)
    assert sum(row.first_share or 0 for row in ranking.rows) == pytest.approx(1)
    assert ranking.advised not in ranking.others
    assert len(ranking.others) == len(cells) - 1


def test_prompts_to_tell_a_difference_grow_with_the_square_of_its_interval() -> None:
    assert prompts_to_tell(Estimate(value=0.1, low=-0.1, high=0.3), 8) == 32
    assert prompts_to_tell(Estimate(value=0.1, low=0.05, high=0.15), 8) is None
    assert prompts_to_tell(Estimate(value=0.0, low=-0.1, high=0.1), 8) is None


def test_values_of_one_prompt_are_one_value() -> None:
    one = Figure(name="x", label="x", better=1, value=2.0, count=3, values={"a": 1.0, "b": 3.0, "c": 5.0})
    assert group_means(one, {"a": "first", "b": "first"}) == {"first": 2.0, "c": 5.0}
