"""Style similarity: how like the references' style the images are, whatever they show, by Gram matrices of image tokens.

The Gram matrix of a layer's tokens forgets where things are and keeps which features occur together (Gatys et al. 2016).
Here: CLIP's tokens at a quarter, half and three quarters of the depth, each normalised; the mean cosine to the
references. CSD (Somepalli et al. 2024) trains a descriptor for the same end; its weights are not needed for this one.
Gram cosines are high between any two images: only the distance from the anchors means something.
"""

from collections.abc import Sequence
from typing import Any

from loraloom.extensions.metrics._similarity import Similarity, SimilarityState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, MetricSetup, Sample, TowerKind


def _features(setup: MetricSetup, samples: Sequence[Sample]) -> Sequence[Any]:
    from loraloom.extensions.metrics._towers import clip_tower_of

    return clip_tower_of(setup).styles(samples)


class Style(Similarity):
    """The metric `style`."""

    name = "style"
    tower: TowerKind = "clip"

    def start(self, setup: MetricSetup) -> SimilarityState:
        """An empty state; the extractor keeps Gram matrices from now on."""
        return SimilarityState(setup, "style", "style to the references", _features)


METRIC: EvaluationMetric = Style()
CONTRACT = MetricContract(figures=("style",))
