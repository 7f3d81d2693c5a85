"""Drift: how much the adapter changes images that have nothing to do with what it was trained on.

(1 - cos) / 2 of the embeddings of two images of one request, adapter on and off, the mean over ten fixed unrelated prompts
with seeds that training does not use (the protocol of PEFT's image benchmark, `measure_drift`). 0 is no change. PEFT's
code at commit 10794ab reports 1 - cos, twice this number.

`drift_share` is drift over the mean distance between the images of two different prompts with the adapter off: 0 is no
change, 1 a change as large as another prompt makes. It does not depend on how near all images are to each other in the
feature space.
"""

import numpy as np

from loraloom.extensions.metrics._figures import NO_ADAPTER, mean_figure, nothing
from loraloom.extensions.metrics._pairs import PairState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, TowerKind

_ALIKE = 1e-6
"""Mean distance of images below which they are the same but for rounding."""


class DriftState(PairState):
    """Embeddings of both images of each request."""

    def compute(self) -> list[Figure]:
        """The mean over requests."""
        pairs = self.both("drift", "drift_base")
        if not pairs:
            return []
        on, off = self.unit_rows("drift", pairs), self.unit_rows("drift_base", pairs)
        values = (1 - (on * off).sum(axis=1)) / 2
        groups = [self.groups["drift"][pair] for pair in pairs]
        label, seed = "drift, unrelated prompts", self.setup.seed
        drift = mean_figure("drift", label, values, pairs, groups, seed, better=-1)
        others = np.array(groups)[:, None] != np.array(groups)[None]
        apart = ((1 - off @ off.T) / 2)[others]
        label = "drift, share of what another prompt changes"
        if not len(apart) or apart.mean() < _ALIKE:
            why = "the share of the drift says nothing: with the adapter off all unrelated images are alike"
            return [drift, nothing("drift_share", label, why, (len(pairs), 0), better=-1)]
        return [drift, mean_figure("drift_share", label, values / apart.mean(), pairs, groups, seed, better=-1)]


class Drift:
    """The metric `drift`."""

    name = "drift"
    roles: tuple[Role, ...] = ("drift", "drift_base")
    tower: TowerKind = "clip"

    def missing(self, there: Available) -> str | None:
        """A run."""
        return None if there.counts.get("drift") and there.counts.get("drift_base") else NO_ADAPTER

    def start(self, setup: MetricSetup) -> DriftState:
        """An empty state."""
        return DriftState(setup, self.roles)


METRIC: EvaluationMetric = Drift()
CONTRACT = MetricContract(figures=("drift", "drift_share"))
