"""What each style learned, as figures: likeness to every style's images, the rise over the base, blends, and the prompt.

In: the images of all rows, the datasets, an extractor. Out: `Matrix` records, `Finding`s in words with their numbers. Images
of two rows with the same place have the same prompt and seed, so rises are differences of pairs; intervals resample
prompts (bootstrap, 95 %).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loraloom import plugins
from loraloom.evaluate.inputs import read_references
from loraloom.evaluate.scoring import figures_of
from loraloom.prompts.notes import Losses
from loraloom.prompts.triggers import without_trigger
from loraloom.protocols.evaluation import EvaluationMetric, MetricSetup, Sample
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed
from recipes.styles.compare import BASE, Compared

NUM_RESAMPLES = 2000
MAX_WRONG = 15
"""Wrong prompts that each image is scored with."""
MIN_PROMPTS = 4
"""Prompts below which no interval is given."""
Values = NDArray[np.float64]
Bar = Callable[[str], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over images with its 95 % interval; None where too few prompts say."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Likeness of one row to one style's images.

    Attributes:
        likeness: Mean over the row's images.
        rise: Mean of the differences from the base's image of the same prompt and seed; None for real images.
    """

    likeness: Estimate
    rise: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One metric: rows are base, styles, blends and held-out real images; columns are the styles' training images.

    Attributes:
        metric: Its name.
        columns: Names of the styles.
        rows: Name of the row to name of the style to its cell.
        margins: For each style alone the other style whose rise comes nearest to its own, and the own rise minus that one.
    """

    metric: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    margins: Mapping[str, tuple[str, Estimate]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A statement that the recipe is to show.

    Attributes:
        text: In words, with its numbers.
        metric: Metric that it is about.
        kind: `style`, `blend` or `prompt`.
        shown: Whether the figures show it.
    """

    text: str
    metric: str
    kind: str
    shown: bool


def read_sets(datasets: Mapping[str, Path], losses: Losses) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Training images and held-out images of each style, as references and as images to score."""
    sets: dict[str, tuple[list[Sample], list[Sample]]] = {}
    for name, folder in datasets.items():
        samples = [replace(one, id=f"{name}/{one.id}") for one in read_references(folder, losses).samples]
        references = [one for one in samples if one.role == "reference"]
        held = [replace(one, role="generated") for one in samples if one.role == "held_out"]
        sets[name] = (references, held)
    return sets


def likeness(
    name: str,
    compared: Compared,
    sets: Mapping[str, tuple[list[Sample], list[Sample]]],
    setup: MetricSetup,
    batch_size: int,
    bar: Bar,
) -> Matrix:
    """The matrix of one metric."""
    metric: EvaluationMetric = plugins.load("metrics", name)
    scored = {row.name: list(compared.samples[row.name]) for row in compared.rows}
    scored |= {f"real, held out: {style}": held for style, (_, held) in sets.items() if held}
    progress, total = bar(f"{name}: rows and columns"), len(scored) * len(sets)
    values: dict[str, dict[str, Values]] = {}
    for number, (row, samples) in enumerate(scored.items()):
        values[row] = {}
        for place, (style, (references, _)) in enumerate(sets.items(), 1):
            (figure,) = figures_of(metric, setup, {"generated": samples, "reference": references}, batch_size)
            values[row][style] = np.array([figure.values[sample.id] for sample in samples])
            progress(number * len(sets) + place, total)
    groups = {row: [sample.group for sample in samples] for row, samples in scored.items()}
    rows = {row: {style: _cell(row, style, values, groups[row]) for style in sets} for row in scored}
    margins = {style: _margin(style, values, groups[style]) for style in sets if style in values and len(sets) > 1}
    return Matrix(metric=name, columns=tuple(sets), rows=rows, margins=margins)


def _margin(style: str, values: Mapping[str, Mapping[str, Values]], groups: Sequence[str]) -> tuple[str, Estimate]:
    rises = {column: values[style][column] - values[BASE][column] for column in values[style]}
    found = {other: estimate(rises[style] - rises[other], groups) for other in rises if other != style}
    nearest = min(found, key=lambda other: found[other].value)
    return nearest, found[nearest]


def _cell(row: str, style: str, values: Mapping[str, Mapping[str, Values]], groups: Sequence[str]) -> Cell:
    own = values[row][style]
    rise = None
    if row != BASE and not row.startswith("real, "):
        rise = estimate(own - values[BASE][style], groups)
    return Cell(likeness=estimate(own, groups), rise=rise)


def estimate(values: Values, groups: Sequence[str]) -> Estimate:
    """Mean and percentile interval; groups are resampled whole, since images of one prompt are not independent."""
    names = sorted(set(groups))
    if len(names) < MIN_PROMPTS:
        return Estimate(value=float(values.mean()), low=None, high=None)
    of = np.array([names.index(group) for group in groups])
    sums, counts = np.bincount(of, values), np.bincount(of)
    rng = np.random.default_rng(derive_seed("styles", "bootstrap"))
    picked = rng.integers(0, len(names), (NUM_RESAMPLES, len(names)))
    low, high = np.quantile(sums[picked].sum(1) / counts[picked].sum(1), [0.025, 0.975])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """How well the images of a row fit what the prompt asks for, by the CLIP score.

    Attributes:
        own: With its own prompts, without trigger words.
        wrong: With the prompts of other images, their mean: the score of images that know nothing of the prompt.
        lead: The difference of the two, a mean over images.
        gain: The lead minus that of the base's image of the same prompt and seed; None for the base and real images.
    """

    own: Estimate
    wrong: Estimate
    lead: Estimate
    gain: Estimate | None = None


def prompt_kept(
    compared: Compared,
    sets: Mapping[str, tuple[list[Sample], list[Sample]]],
    setup: MetricSetup,
    batch_size: int,
    bar: Bar,
) -> dict[str, Prompted]:
    """CLIP scores of every row, and of held-out real images with their captions."""
    metric: EvaluationMetric = plugins.load("metrics", "clip_score")
    rows = {row.name: (list(compared.samples[row.name]), len(compared.prompts)) for row in compared.rows}
    for style, (_, held) in sets.items():
        plain = [replace(one, prompt=without_trigger(one.prompt, compared.triggers[style])) for one in held]
        rows[f"real, held out: {style}"] = ([one for one in plain if one.prompt], len(plain))
    found: dict[str, Prompted] = {}
    base: Values | None = None
    progress = bar("clip_score: rows")
    for number, (row, (samples, num_prompts)) in enumerate(rows.items()):
        progress(number, len(rows))
        if len(samples) < 2 or num_prompts < 2:
            continue
        groups = [sample.group for sample in samples]
        own = _clip(metric, setup, samples, batch_size)
        step = max(1, len(samples) // num_prompts)
        shifts = range(step, len(samples), step)[:MAX_WRONG]
        wrong = np.mean([_clip(metric, setup, _shifted(samples, shift), batch_size) for shift in shifts], axis=0)
        lead = own - wrong
        base = lead if row == BASE else base
        paired = base is not None and row in compared.samples and row != BASE
        found[row] = Prompted(
            own=estimate(own, groups),
            wrong=estimate(wrong, groups),
            lead=estimate(lead, groups),
            gain=estimate(lead - base, groups) if paired and base is not None else None,
        )
    progress(len(rows), len(rows))
    return found


def _shifted(samples: list[Sample], shift: int) -> list[Sample]:
    """The images with the prompts of others."""
    others = [*samples[shift:], *samples[:shift]]
    return [replace(sample, prompt=other.prompt) for sample, other in zip(samples, others, strict=True)]


def _clip(metric: EvaluationMetric, setup: MetricSetup, samples: list[Sample], batch_size: int) -> Values:
    figures = figures_of(metric, setup, {"generated": samples}, batch_size)
    figure = next(one for one in figures if one.name == "clip_score")
    return np.array([figure.values[sample.id] for sample in samples])


# -------------------------------------------------------------------------------------------------------- in words


def findings(compared: Compared, matrices: Sequence[Matrix], prompted: Mapping[str, Prompted]) -> list[Finding]:
    """What the recipe is to show, statement by statement, with whether the figures show it."""
    found: list[Finding] = []
    for matrix in matrices:
        found += [_style_finding(matrix, style) for style in matrix.margins]
        found += [_blend_finding(matrix, *row.styles, row.name) for row in compared.rows if len(row.styles) == 2]
    if BASE in prompted:
        found += [_prompt_finding(row.name, prompted) for row in compared.rows if row.name != BASE]
    return found


def _style_finding(matrix: Matrix, style: str) -> Finding:
    rises = {column: cell.rise for column, cell in matrix.rows[style].items() if cell.rise is not None}
    other, margin = matrix.margins[style]
    text = f"{style}: likeness to its own images rises by {words(rises[style])}, to those of {other} by {words(rises[other])}"
    shown = (rises[style].low or 0) > 0 and (margin.low or 0) > 0
    return Finding(text=text, metric=matrix.metric, kind="style", shown=shown)


def _blend_finding(matrix: Matrix, one: str, other: str, blend: str) -> Finding:
    parts: list[str] = []
    shown = True
    for style, rival in ((one, other), (other, one)):
        low, middle, high = (matrix.rows[row][style].likeness.value for row in (rival, blend, style))
        parts.append(f"to {style} {middle:.3f} (with {rival} alone {low:.3f}, with {style} alone {high:.3f})")
        shown = shown and low <= middle <= high
    return Finding(text=f"{blend}: likeness {', '.join(parts)}", metric=matrix.metric, kind="blend", shown=shown)


KEPT = 0.8
"""Share of the base's lead over wrong prompts that a row must keep."""


def _prompt_finding(row: str, prompted: Mapping[str, Prompted]) -> Finding:
    base, mine = prompted[BASE].lead, prompted[row].lead
    share = mine.value / base.value if base.value > 0 else 0.0
    text = (
        f"{row}: with its own prompts the CLIP score is {words(mine, 1)} above that with wrong prompts; of the base it is "
        f"{words(base, 1)}, so {share:.0%} is kept"
    )
    if gain := prompted[row].gain:
        text += f"; the difference of pairs is {words(gain, 1)}"
    return Finding(text=text, metric="clip_score", kind="prompt", shown=share >= KEPT)


def words(one: Estimate, digits: int = 3) -> str:
    """A value with its interval."""
    if one.low is None or one.high is None:
        return f"{one.value:.{digits}f}"
    return f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})"
