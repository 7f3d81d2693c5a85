"""Which setting of a sweep to keep: a score with its interval, and whether a setting is underfitted or overfitted, and why.

In: the figures of each setting with the value of each prompt, those of the base and of real held-out images. Out: rows, best
first, each with a verdict. All settings have the same prompts and seeds, so that differences are taken prompt by prompt, and
intervals come from resampling prompts (bootstrap, Efron & Tibshirani 1993), all settings in the same way.

    gain   (figure - base's) / (real held-out images' - base's): 0 is the base, 1 as like the training set as real images.
           Without held-out images, or where they are not above the base, the largest gain of the sweep counts as 1.
    drift  `drift_share`: how much unrelated images change; 1 is as much as another prompt changes them
    loss   how much less prompts are followed than by the base or by real held-out images, whichever follow them less, as a
           share of the base's figure
    score  gain - drift's weight x drift - prompts' weight x loss, where there is a loss

The rules for the words underfitted and overfitted are ours; `RULES` states them, and the report prints them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loraloom.protocols.evaluation import Figure
from loraloom.utils.rng import derive_seed

NUM_RESAMPLES = 2000
MIN_PROMPTS = 4
"""Prompts below which there are no intervals, as in the metrics."""
COPIES_MORE = 0.1
FIT_LOSS = 0.1
SMALL_GAIN = 0.25
Verdict = Literal["good", "underfitted", "overfitted", "unsure"]
Array = NDArray[np.float64]
RULES: Mapping[str, str] = {
    "underfitted": f"the gain over the base is not surely above 0 and is below {SMALL_GAIN:.0%}",
    "unsure": f"the gain over the base is at least {SMALL_GAIN:.0%}, and not surely above 0: more prompts or seeds show it or "
    "refute it",
    "overfitted": "one of: "
    f"(1) the share of images that are copies of training images is at least {COPIES_MORE:.0%} above that of the base and of "
    "real held-out images; "
    "(2) its images are surely nearer to training images than real held-out images are (cosine to the nearest); "
    f"(3) it follows prompts surely less than the base and real held-out images, by at least {FIT_LOSS:.0%} of the base's; "
    "(4) a milder setting (an earlier checkpoint, a smaller scale) surely gains, gains as much or more, and surely drifts less",
    "good": "none of these",
}
"""Verdict to its rule. Surely: the 95 % interval of the difference, taken prompt by prompt, does not reach 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over prompts with its 95 % interval; the ends are None with too few prompts."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def above_zero(self) -> bool:
        """Whether it is surely above 0; without an interval whether the value is."""
        return (self.value if self.low is None else self.low) > 0

    @property
    def shows_difference(self) -> bool:
        """Whether the interval does not reach 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The figures of one setting.

    Attributes:
        name, label: Unique name; for people.
        step: Optimizer steps.
        scale: Scale of the adapter.
        candidate: Name of the adapter.
        is_average: Whether the adapter is an average of checkpoints.
        figures: By name.
        by_group: Name of a figure to the mean of each prompt, or of each unrelated prompt.
    """

    name: str
    label: str
    step: int
    scale: float
    candidate: str
    is_average: bool
    figures: Mapping[str, Figure]
    by_group: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        cell: The setting.
        score, gain: See the module.
        drift: None where it was not measured.
        fit_loss: How much less it follows prompts than the base or real held-out images, whichever is less, as a share of the
            base's figure; None where nobody measured.
        behind: Score of the first one minus this one's; None for the first one.
        first_share: Share of the resamples in which it is the first; None without intervals.
        verdict: In a word.
        reasons: Why, as sentences; empty for a good one.
    """

    cell: Scored
    score: Estimate
    gain: Estimate
    drift: Estimate | None
    fit_loss: Estimate | None
    behind: Estimate | None
    first_share: float | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether it does not surely differ from the advised one."""
        return self.behind is not None and not self.behind.shows_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The leaderboard.

    Attributes:
        rows: By score, best first.
        advised: The best one that is good; where none is, the best one that is unsure; where none is, the best one.
        others: All but the advised one, compared with it, in the order of `rows`; those of its verdict first.
        ranked_by: Name of the figure that the gain is of.
        fit: Name of the figure of prompts; empty where there is none.
        unit: What a gain of 1 is, for people.
        num_prompts: Prompts that settings are compared on.
        drift_weight, prompt_weight: See the module.
        notes: What was left out of the rules, and why.
    """

    rows: tuple[Row, ...]
    advised: Row
    others: tuple[Row, ...]
    ranked_by: str
    fit: str
    unit: str
    num_prompts: int
    drift_weight: float
    prompt_weight: float
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Table:
    """Values of all settings as matrices, a row for each setting, and the same resamples for all.

    Attributes:
        gains: (settings, prompts) gain of each prompt.
        drifts: (settings, unrelated prompts) share of the drift; no columns where it was not measured.
        losses: (settings, prompts) loss of fit; no columns where it was not measured.
        weights: How much drift and the loss of prompts lower the score.
        seed: Decides the resamples.
    """

    gains: Array
    drifts: Array
    losses: Array
    weights: tuple[float, float]
    seed: int
    _picks: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict[tuple[str, int], NDArray[np.int64]])

    def gain(self, row: Array) -> Estimate:
        """The mean of values by prompt."""
        return _estimate(row.mean(), self._resampled(row, "prompts"))

    def drift(self, row: Array) -> Estimate:
        """The mean of values by unrelated prompt."""
        return _estimate(row.mean(), self._resampled(row, "unrelated"))

    def score(self, place: int) -> tuple[float, Array | None]:
        """The score of a setting, and (resamples,) scores; None with too few prompts."""
        gain, drift, loss = self.gains[place], self.drifts[place], self.losses[place]
        by_drift, by_loss = self.weights
        value, resampled = float(gain.mean()), self._resampled(gain, "prompts")
        if drift.size:
            value -= by_drift * float(drift.mean())
            shifted = self._resampled(drift, "unrelated")
            if resampled is not None:
                resampled = resampled - by_drift * (drift.mean() if shifted is None else shifted)
        if loss.size:
            value -= by_loss * max(float(loss.mean()), 0.0)
            shifted = self._resampled(loss, "prompts")
            if resampled is not None and shifted is not None:
                resampled = resampled - by_loss * shifted.clip(min=0)
        return value, resampled

    def _resampled(self, row: Array, kind: str) -> Array | None:
        """(resamples,) means of a row; rows of one length and kind are resampled alike. None with too few values."""
        count = len(row)
        if count < MIN_PROMPTS:
            return None
        if (kind, count) not in self._picks:
            rng = np.random.default_rng(derive_seed("sweep", kind, self.seed))
            self._picks[kind, count] = rng.integers(0, count, (NUM_RESAMPLES, count))
        return row[self._picks[kind, count]].mean(axis=1)


def rank(
    cells: Sequence[Scored],
    base: Scored,
    held_out: Mapping[str, Figure],
    *,
    ranked_by: str,
    fit: str,
    drift_weight: float,
    prompt_weight: float,
    seed: int,
) -> Ranking:
    """The leaderboard of a sweep.

    Args:
        cells: One or more settings with the same prompts.
        base: The base with the same prompts and seeds.
        held_out: Figures of real held-out images by name; empty where there are none.
        ranked_by: Name of the figure that the gain is of; higher is better.
        fit: Name of the figure of prompts, higher is better; empty for none.
        drift_weight, prompt_weight: See the module.
        seed: Decides the resamples.
    """
    groups = _common(ranked_by, base, cells)
    raw = np.array(
        [[cell.by_group[ranked_by][one] - base.by_group[ranked_by][one] for one in groups] for cell in cells]
    )
    ceiling = held_out[ranked_by].value if ranked_by in held_out else None
    own = base.figures[ranked_by].value
    assert own is not None
    if ceiling is not None and ceiling > own:
        unit, unit_words = ceiling - own, "the difference of real held-out images to the base"
    else:
        largest = float(raw.mean(axis=1).max())
        unit, unit_words = largest if largest > 0 else 1.0, "the largest gain of this sweep"
    losses, notes = _fit_losses(cells, base, held_out, fit)
    unrelated = _common("drift_share", cells[0], cells)
    drifts = np.array([[cell.by_group["drift_share"][one] for one in unrelated] for cell in cells]).reshape(
        len(cells), -1
    )
    table = _Table(gains=raw / unit, drifts=drifts, losses=losses, weights=(drift_weight, prompt_weight), seed=seed)
    rows = [_row(table, cells, place, base, held_out) for place in range(len(cells))]
    order = sorted(range(len(cells)), key=lambda place: -rows[place].score.value)
    kinds = [[place for place in order if rows[place].verdict == verdict] for verdict in ("good", "unsure")]
    first_kind = next((places for places in kinds if places), order)
    best = first_kind[0]
    compared = [_compared(table, place, best) for place in range(len(cells))]
    first = _first_shares(table, len(cells))
    done = [
        replace(row, behind=None if place == best else compared[place], first_share=first[place] if first else None)
        for place, row in enumerate(rows)
    ]
    others = [*first_kind[1:], *(place for place in order if place not in first_kind)]
    return Ranking(
        rows=tuple(done[place] for place in order),
        advised=done[best],
        others=tuple(done[place] for place in others),
        ranked_by=ranked_by,
        fit=fit if losses.size else "",
        unit=unit_words,
        num_prompts=len(groups),
        drift_weight=drift_weight,
        prompt_weight=prompt_weight,
        notes=tuple(notes),
    )


def prompts_to_tell(difference: Estimate, num_prompts: int) -> int | None:
    """About how many prompts would show a difference of this size; None where it shows, or is 0.

    The width of an interval falls with the root of the number of prompts.
    """
    if difference.low is None or difference.high is None or difference.shows_difference or difference.value == 0:
        return None
    half = (difference.high - difference.low) / 2
    return int(np.ceil(num_prompts * (half / abs(difference.value)) ** 2))


def group_means(figure: Figure, group_of: Mapping[str, str]) -> dict[str, float]:
    """The mean value of each group; an id that is in no group is a group of its own."""
    found: dict[str, list[float]] = {}
    for id_, value in figure.values.items():
        found.setdefault(group_of.get(id_, id_), []).append(value)
    return {group: float(np.mean(values)) for group, values in found.items()}


# ----------------------------------------------------------------------------------------------------------- verdicts


def _row(table: _Table, cells: Sequence[Scored], place: int, base: Scored, held_out: Mapping[str, Figure]) -> Row:
    gain = table.gain(table.gains[place])
    drift = table.drift(table.drifts[place]) if table.drifts.size else None
    loss = table.gain(table.losses[place]) if table.losses.size else None
    reasons = [
        *_copies(cells[place], base, held_out),
        *_fit_reason(loss),
        *_milder(table, cells, place),
    ]
    if reasons:
        verdict: Verdict = "overfitted"
    elif gain.above_zero:
        verdict = "good"
    else:
        verdict = "underfitted" if gain.value < SMALL_GAIN else "unsure"
        reasons = [f"its gain over the base, {_percent(gain)}, is not surely above 0"]
    return Row(
        cell=cells[place],
        score=_estimate(*table.score(place)),
        gain=gain,
        drift=drift,
        fit_loss=loss,
        behind=None,
        first_share=None,
        verdict=verdict,
        reasons=tuple(reasons),
    )


def _copies(cell: Scored, base: Scored, held_out: Mapping[str, Figure]) -> list[str]:
    """Rules 1 and 2."""
    found: list[str] = []
    mine, real = cell.figures.get("copies"), held_out.get("copies")
    usual = [one.value or 0.0 for one in (base.figures.get("copies"), real) if one]
    if mine and mine.value is not None and usual and mine.value >= max(usual) + COPIES_MORE:
        found.append(
            f"{mine.value:.0%} of its images are copies of training images (base or held-out: {max(usual):.0%})"
        )
    near, far = cell.figures.get("nearest_cosine"), held_out.get("nearest_cosine")
    if near and far and near.low is not None and far.high is not None and near.low > far.high:
        found.append(
            "its images are surely nearer to training images than real held-out ones are "
            f"(cosine {near.value:.3f} against {far.value:.3f})"
        )
    return found


def _fit_reason(loss: Estimate | None) -> list[str]:
    """Rule 3."""
    if loss is None or loss.value < FIT_LOSS or not (loss.shows_difference and loss.above_zero):
        return []
    return [f"it follows prompts {loss.value:.0%} less than the base and real images"]


def _milder(table: _Table, cells: Sequence[Scored], place: int) -> list[str]:
    """Rule 4: one milder setting that does as well with less drift."""
    if not table.drifts.size:
        return []
    mine, found = table.gains[place], list[tuple[float, str]]()
    for other, cell in enumerate(cells):
        theirs = table.gains[other]
        if not _is_milder(cell, cells[place]) or theirs.mean() < mine.mean() or not table.gain(theirs).above_zero:
            continue
        more = table.drift(table.drifts[place] - table.drifts[other])
        if more.shows_difference and more.above_zero:
            score = table.score(other)[0]
            words = (
                f"it gains no more than {cell.label} ({mine.mean():.0%} against {theirs.mean():.0%}) and drifts surely more "
                f"({table.drifts[place].mean():.0%} against {table.drifts[other].mean():.0%})"
            )
            found.append((score, words))
    return [max(found)[1]] if found else []


def _is_milder(one: Scored, than: Scored) -> bool:
    """A smaller scale of the same adapter; or, between two checkpoints, no later and at no larger scale."""
    if one.candidate == than.candidate:
        return abs(one.scale) < abs(than.scale)
    if one.is_average or than.is_average:
        return False
    return one.step <= than.step and abs(one.scale) <= abs(than.scale)


def _fit_losses(
    cells: Sequence[Scored], base: Scored, held_out: Mapping[str, Figure], fit: str
) -> tuple[Array, list[str]]:
    """(settings, prompts) loss of fit as a share of the base's figure; no columns where it says nothing.

    The loss counts from the base down, or from real held-out images where those have less: generated images often fit their
    prompts better than real ones do.
    """
    none = np.zeros((len(cells), 0))
    if not fit or fit not in base.by_group:
        return none, []
    own, real = base.figures[fit].value, held_out.get(fit)
    if not own or own <= 0:
        return none, [f"{fit} of the base is not above 0: whether prompts are followed is no part of the verdicts"]
    level = min(own, real.value) if real is not None and real.value is not None else own
    notes: list[str] = []
    if level < own * (1 - FIT_LOSS):
        notes.append(
            f"{fit} of real held-out images is {1 - level / own:.0%} below the base's: it hardly reads images of this kind, so "
            "look at the images to see whether prompts are followed"
        )
    groups = _common(fit, base, cells)
    theirs = np.array([base.by_group[fit][one] for one in groups]) - (own - level)
    mine = np.array([[cell.by_group[fit][one] for one in groups] for cell in cells]).reshape(len(cells), -1)
    return (theirs - mine) / own, notes


def _common(figure: str, base: Scored, cells: Sequence[Scored]) -> list[str]:
    """Groups that a figure has a value of in every setting."""
    return sorted(set(base.by_group.get(figure, {})).intersection(*(cell.by_group.get(figure, {}) for cell in cells)))


# ---------------------------------------------------------------------------------------------------------- resamples


def _compared(table: _Table, place: int, best: int) -> Estimate:
    """Score of the advised setting minus this one's."""
    (value, resampled), (other, others) = table.score(best), table.score(place)
    return _estimate(value - other, None if resampled is None or others is None else resampled - others)


def _first_shares(table: _Table, count: int) -> list[float] | None:
    """Share of the resamples in which each setting is the first."""
    found = [table.score(place)[1] for place in range(count)]
    if any(one is None for one in found):
        return None
    winners = np.stack([one for one in found if one is not None]).argmax(axis=0)
    return [float(share) for share in np.bincount(winners, minlength=count) / NUM_RESAMPLES]


def _estimate(value: float, resampled: Array | None) -> Estimate:
    if resampled is None:
        return Estimate(value=float(value))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value=float(value), low=float(low), high=float(high))


def _percent(one: Estimate) -> str:
    ends = f" ({one.low:.0%} .. {one.high:.0%})" if one.low is not None else ""
    return f"{one.value:.0%}{ends}"
