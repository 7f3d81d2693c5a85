"""Samples to scores: choose the metrics, feed them, and score the anchors in the same way.

In: samples by role, metrics by name. Out: scores: each a figure with its extractor, its seeds, and the same figure of the
anchors (the base with the adapter off; real images that were held out).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from loraloom import plugins
from loraloom.evaluate.extractors import Extractor
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.progress import Progress

ANCHORS: tuple[Role, ...] = ("base", "held_out")
"""Sets that are scored like the generated images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A figure with what it is a figure of.

    Attributes:
        metric: Name of the metric.
        figure: The figure of the generated images.
        anchors: The same figure of other sets, by role.
        extractor: That computed its features; empty for a metric without one.
        seeds: Seeds of the images; empty where nobody knows them.
    """

    metric: str
    figure: Figure
    anchors: Mapping[Role, Figure] = field(default_factory=dict[Role, Figure])
    extractor: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def doubt(self) -> str:
        """A sentence where the extractor cannot read images of this kind: real ones score surely worse than the base without
        the adapter. Empty where nothing speaks against the figure."""
        base, real, better = self.anchors.get("base"), self.anchors.get("held_out"), self.figure.better
        if not (base and real and better and self.extractor) or base.value is None or real.value is None:
            return ""
        ends = (base.low, base.high, real.low, real.high)
        low, high, real_low, real_high = (end if end is not None else math.nan for end in ends)
        if not (real_high < low if better > 0 else real_low > high):
            return ""
        return (
            f"{self.figure.name} is in doubt: real held-out images score worse than the base with the adapter off, so "
            f"{self.extractor} does not read images of this kind"
        )


def check_names(wanted: Sequence[str]) -> None:
    """Raise `UserError` for a metric that does not exist; the nearest names are listed."""
    known = plugins.names("metrics")
    for name in wanted:
        if name not in known:
            raise UserError("no such metric", got=name, fix=did_you_mean(name, known))


def choose(
    wanted: Sequence[str],
    there: Available,
    without: Mapping[str, str],
    say: Callable[[str], None],
    usual: Sequence[str] | None = None,
) -> list[EvaluationMetric]:
    """The metrics to compute.

    Args:
        wanted: Names; empty is every usual metric that can be computed, and a line for each reason why others cannot.
        there: What there is to score.
        without: Kind of extractor to why there is none.
        say: Takes these lines.
        usual: Names of the usual metrics; None for all metrics.

    Raises:
        UserError: A metric that was named cannot be computed, or none can.
    """
    chosen: list[EvaluationMetric] = []
    left_out: dict[str, list[str]] = {}
    for name in wanted or usual or plugins.names("metrics"):
        metric: EvaluationMetric = plugins.load("metrics", name)
        why = metric.missing(there) or (without.get(metric.tower) if metric.tower else None)
        if why is None:
            chosen.append(metric)
        elif wanted:
            raise UserError(f"{name} cannot be computed: {why}")
        else:
            left_out.setdefault(why, []).append(name)
    for why, names in left_out.items():
        say(f"left out: {', '.join(names)}: {why}")
    if not chosen:
        raise UserError("no metric can be computed from what is given", fix="add --reference, or images with prompts")
    return chosen


def available(samples: Sequence[Sample], *, verifies: bool) -> Available:
    """What some samples allow."""
    generated = [sample for sample in samples if sample.role == "generated"]
    seeds = Counter(sample.prompt for sample in generated if sample.prompt)
    return Available(
        counts=Counter(sample.role for sample in samples),
        prompts=sum(seeds.values()),
        most_seeds=max(seeds.values(), default=0),
        verifies=verifies,
    )


def score(
    metrics: Sequence[EvaluationMetric],
    samples: Sequence[Sample],
    setups: Mapping[str, MetricSetup],
    extractors: Mapping[str, Extractor],
    *,
    batch_size: int,
    bar: Callable[[str], Progress],
) -> list[Score]:
    """All figures of all metrics, with their anchors.

    Args:
        metrics: To compute.
        samples: Samples of all roles.
        setups: By name of metric.
        extractors: By kind.
        batch_size: Images that an extractor reads at once.
        bar: Makes a progress callback.
    """
    by_role: dict[Role, list[Sample]] = {role: [] for role in get_args(Role)}
    for sample in samples:
        by_role[sample.role].append(sample)
    scores: list[Score] = []
    for metric in metrics:
        progress = bar(f"{metric.name}: images")
        setup = setups[metric.name]
        figures = figures_of(metric, setup, by_role, batch_size, progress)
        anchors: dict[Role, dict[str, Figure]] = {}
        for role in ANCHORS if "generated" in metric.roles and role_free(metric) else ():
            others: dict[Role, list[Sample]] = {
                **by_role,
                "generated": [replace(sample, role="generated") for sample in by_role[role]],
            }
            if others["generated"] and not metric.missing(
                available([*others["generated"], *by_role["reference"]], verifies=bool(setup.verifier))
            ):
                anchors[role] = {
                    figure.name: figure for figure in figures_of(metric, setup, others, batch_size, progress)
                }
        extractor = extractors[metric.tower].location if metric.tower else ""
        seeds = seeds_of([sample for role in metric.roles for sample in by_role[role]])
        scores += [
            Score(
                metric=metric.name,
                figure=figure,
                anchors={role: found[figure.name] for role, found in anchors.items() if figure.name in found},
                extractor=extractor,
                seeds=seeds,
            )
            for figure in figures
        ]
    return scores


def seeds_of(samples: Sequence[Sample]) -> tuple[int, ...]:
    """The seeds of samples, each once, sorted; those that nobody knows are left out."""
    return tuple(sorted({sample.seed for sample in samples if sample.seed is not None}))


def role_free(metric: EvaluationMetric) -> bool:
    """Whether a metric reads one scored set beside the references, so that another set can take its place."""
    return set(metric.roles) <= {"generated", "reference"}


def figures_of(
    metric: EvaluationMetric,
    setup: MetricSetup,
    by_role: Mapping[Role, Sequence[Sample]],
    batch_size: int,
    progress: Progress | None = None,
) -> list[Figure]:
    """The figures of one metric over the samples of the roles that it reads."""
    state = metric.start(setup)
    mine = [sample for role in metric.roles for sample in by_role.get(role, ())]
    for start in range(0, len(mine), batch_size):
        batch = mine[start : start + batch_size]
        state.update(batch)
        if progress:
            progress(start + len(batch), len(mine))
    return list(state.compute())


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """For scores.json: what a person or a program needs to compare two evaluations."""
    return [
        {
            "metric": one.metric,
            **figure_record(one.figure),
            "extractor": one.extractor or None,
            "doubt": one.doubt or None,
            "seeds": list(one.seeds),
            "anchors": {role: figure_record(figure) for role, figure in one.anchors.items()},
        }
        for one in scores
    ]


def per_image(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Id of an image, or of a pair or prompt, to name of the figure to its value: which ones raise or lower a mean."""
    values: dict[str, dict[str, float]] = {}
    for one in scores:
        for id_, value in one.figure.values.items():
            values.setdefault(id_, {})[one.figure.name] = value
    return {id_: values[id_] for id_ in sorted(values)}


def figure_record(figure: Figure) -> dict[str, Any]:
    """A figure as plain values, without the value of each image."""
    better = {1: "higher", -1: "lower", 0: "neither"}[figure.better]
    return {
        "name": figure.name,
        "label": figure.label,
        "better": better,
        "value": figure.value,
        "interval_95": [figure.low, figure.high] if figure.low is not None else None,
        "sd": figure.sd,
        "count": figure.count,
        "references": figure.references,
        "says_nothing": figure.says_nothing or None,
        "note": figure.note or None,
    }
