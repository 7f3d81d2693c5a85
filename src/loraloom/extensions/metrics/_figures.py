"""What several metrics share: figures that are means over samples, and sentences about what is missing."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loraloom.extensions.metrics._distances import bootstrap
from loraloom.protocols.evaluation import Available, Figure

NO_REFERENCES = "it compares with reference images: add --reference FOLDER or DATASET"
NO_PROMPTS = (
    "the images have no prompts: generate them with `loraloom generate`, which writes prompts.jsonl beside them"
)
NO_ADAPTER = "it needs a run that it can generate with: add --lora RUN"


def few(there: Available, role: str, least: int, words: str = "images") -> str | None:
    """A sentence where there are fewer than `least` samples of a role; None where there are enough."""
    count = there.counts.get(role, 0)
    if count >= least:
        return None
    if role == "reference" and not count:
        return NO_REFERENCES
    return f"it needs {least} {words} and there {'is' if count == 1 else 'are'} {count}"


def mean_figure(
    name: str,
    label: str,
    values: NDArray[np.float64],
    ids: Sequence[str],
    groups: Sequence[str],
    seed: int,
    *,
    better: int,
    references: int = 0,
    nearest: Mapping[str, str] | None = None,
) -> Figure:
    """The mean of one value a sample with its bootstrap interval over groups."""
    interval = bootstrap(values, groups, seed)
    return Figure(
        name=name,
        label=label,
        better=better,
        value=float(values.mean()),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        count=len(values),
        references=references,
        values={id_: float(value) for id_, value in zip(ids, values, strict=True)},
        nearest=dict(nearest or {}),
    )


def set_figure(
    name: str,
    label: str,
    value: float,
    sd: float | None,
    counts: tuple[int, int],
    *,
    better: int = -1,
) -> Figure:
    """A distance between two sets, with the interval value +- 1.96 sd."""
    return Figure(
        name=name,
        label=label,
        better=better,
        value=value,
        sd=sd,
        low=value - 1.96 * sd if sd is not None else None,
        high=value + 1.96 * sd if sd is not None else None,
        count=counts[0],
        references=counts[1],
    )


def nothing(name: str, label: str, why: str, counts: tuple[int, int], *, better: int) -> Figure:
    """A figure that would mislead, with the sentence that is shown in its place."""
    return Figure(
        name=name, label=label, better=better, value=None, count=counts[0], references=counts[1], says_nothing=why
    )
