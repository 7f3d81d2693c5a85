"""Score difference: whether the denoiser knows its training captions too well, without generating an image.

For each caption the guidance vector g = f(x, caption) - f(x, empty) on pure noise x: its norm where there is much noise,
and its cosine with the unconditional score where there is little (Asthana & Belagiannis, arXiv 2601.20642: memorised
captions have large norms and aligned directions). Both with the adapter on and off: the base is the model that has not
seen these images, so only the change counts (the underfitted baseline of arXiv 2605.26756).

`score_norm_ratio` is the norm with the adapter over that without, a mean over training captions. `score_auc` says how often
a training caption changes more than one that was held out: 0.5 is no sign of memorisation, 1 is certain. The change is
log(norm ratio) + (cosine on - cosine off); the weights of the two are ours, not the paper's.
"""

from collections.abc import Sequence

import numpy as np

from loraloom.extensions.metrics._distances import auc
from loraloom.extensions.metrics._figures import mean_figure, nothing
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind
from loraloom.utils.rng import derive_seed

KEYS = ("norm_on", "norm_off", "cosine_on", "cosine_off")
"""Numbers of a probe."""
LEAST = 10
"""Captions of each kind below which the area under the curve says nothing."""


class ScoreDifferenceState(Rows):
    """The four numbers of each probe; captions of the training set and held-out ones apart."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._setup = setup

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep the numbers of probes."""
        for sample in samples:
            if sample.role == "probe":
                role = "held_out" if sample.held_out else "train"
                self.add(role, sample.id, [sample.numbers[key] for key in KEYS], sample.prompt)

    def compute(self) -> list[Figure]:
        """Ratio and area under the curve."""
        ids, seed = self.ids("train"), self._setup.seed
        if not ids:
            return []
        train, held = (changes(self.matrix(role)) for role in ("train", "held_out"))
        ratios = np.exp(train[:, 0])
        label = "guidance norm, adapter on over off"
        groups = self.group_list("train")
        figures = [mean_figure("score_norm_ratio", label, ratios, ids, groups, seed, better=0)]
        label = "trained from held-out captions (AUC)"
        counts = (len(train), len(held))
        if min(counts) < LEAST:
            why = f"trained from held-out captions (AUC) says nothing with {min(counts)} of one kind: it needs {LEAST} of each"
            return [*figures, nothing("score_auc", label, why, counts, better=-1)]
        own, other = train.sum(axis=1), held.sum(axis=1)
        rng = np.random.default_rng(derive_seed("score difference", seed))
        places = [(rng.integers(0, len(own), len(own)), rng.integers(0, len(other), len(other))) for _ in range(500)]
        again = [auc(own[first], other[second]) for first, second in places]
        low, high = np.quantile(again, [0.025, 0.975])
        figure = Figure(
            name="score_auc", label=label, better=-1, value=auc(own, other), low=float(low), high=float(high),
            count=counts[0], references=counts[1],
        )  # fmt: skip
        return [*figures, figure]


def changes(numbers: np.ndarray) -> np.ndarray:
    """(n, 2): log of the norm's ratio, and the cosine's change, of (n, 4) numbers of probes."""
    if not len(numbers):
        return np.zeros((0, 2))
    on, off, cosine_on, cosine_off = numbers.T
    return np.stack([np.log(on.clip(min=1e-12) / off.clip(min=1e-12)), cosine_on - cosine_off], axis=1)


class ScoreDifference:
    """The metric `score_difference`."""

    name = "score_difference"
    roles: tuple[Role, ...] = ("probe",)
    tower: TowerKind = ""

    def missing(self, there: Available) -> str | None:
        """A run."""
        if there.counts.get("probe"):
            return None
        return (
            "it needs captions of the training: add --lora RUN whose dataset is there, and leave --num-probes above 0"
        )

    def start(self, setup: MetricSetup) -> ScoreDifferenceState:
        """An empty state."""
        return ScoreDifferenceState(setup)


METRIC: EvaluationMetric = ScoreDifference()
CONTRACT = MetricContract(figures=("score_norm_ratio", "score_auc"))
