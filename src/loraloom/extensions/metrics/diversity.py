"""Diversity: how different the images of one prompt are, as 1 - the mean cosine of CLIP image embeddings over pairs of seeds.

A collapsed model gives one image whatever the seed. The real images' own spread is no anchor, since each has its own
caption; the adapter switched off is.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from loraloom.extensions.metrics._distances import normalised
from loraloom.extensions.metrics._figures import mean_figure
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind


class DiversityState(Rows):
    """Embeddings of generated images, grouped by prompt."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._setup = setup

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep the embeddings of generated images with a prompt."""
        from loraloom.extensions.metrics._towers import tower_of

        own = [sample for sample in samples if sample.role == "generated" and sample.prompt]
        for sample, row in zip(own, tower_of(self._setup).images(own) if own else [], strict=True):
            self.add("generated", sample.id, row, sample.prompt)

    def compute(self) -> list[Figure]:
        """The mean over prompts of the mean over pairs."""
        rows, groups = normalised(self.matrix("generated")), self.group_list("generated")
        spreads: dict[str, float] = {}
        for prompt in sorted(set(groups)):
            members = [index for index, group in enumerate(groups) if group == prompt]
            pairs = list(combinations(members, 2))
            if pairs:
                spreads[prompt] = float(np.mean([1 - rows[first] @ rows[second] for first, second in pairs]))
        if not spreads:
            return []
        names = list(spreads)
        label = "diversity over seeds"
        values = np.array(list(spreads.values()))
        return [mean_figure("diversity", label, values, names, names, self._setup.seed, better=1)]


class Diversity:
    """The metric `diversity`."""

    name = "diversity"
    roles: tuple[Role, ...] = ("generated",)
    tower: TowerKind = "clip"

    def missing(self, there: Available) -> str | None:
        """Two images of one prompt."""
        if there.most_seeds >= 2:
            return None
        return "it needs two images of one prompt with different seeds: --num-seeds 2, or `loraloom generate --num-images 2`"

    def start(self, setup: MetricSetup) -> DiversityState:
        """An empty state."""
        return DiversityState(setup)


METRIC: EvaluationMetric = Diversity()
CONTRACT = MetricContract(figures=("diversity",))
