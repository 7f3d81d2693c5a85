"""CLIP-I: how like the references the images are, by the mean cosine similarity of CLIP image embeddings.

The mean over all pairs of an image and a reference, as DreamBooth has it (Ruiz et al. 2023, section 4.2).
"""

from collections.abc import Sequence
from typing import Any

from loraloom.extensions.metrics._similarity import Similarity, SimilarityState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, MetricSetup, Sample, TowerKind


def _features(setup: MetricSetup, samples: Sequence[Sample]) -> Sequence[Any]:
    from loraloom.extensions.metrics._towers import clip_tower_of

    return clip_tower_of(setup).images(samples)


class ClipI(Similarity):
    """The metric `clip_i`."""

    name = "clip_i"
    tower: TowerKind = "clip"

    def start(self, setup: MetricSetup) -> SimilarityState:
        """An empty state."""
        return SimilarityState(setup, "clip_i", "CLIP-I to the references", _features)


METRIC: EvaluationMetric = ClipI()
CONTRACT = MetricContract(figures=("clip_i",))
