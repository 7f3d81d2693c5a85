"""DINO similarity: how like the references the images are, by the mean cosine of class tokens of a self-supervised tower.

DINO tells individuals apart where CLIP sees a kind of thing (Ruiz et al. 2023, section 4.2). DreamBooth's figure is of
DINO ViT-S/16, PEFT's benchmark of DINOv2-base; the two cannot be compared, so the figure always names its extractor.
"""

from collections.abc import Sequence
from typing import Any

from loraloom.extensions.metrics._similarity import Similarity, SimilarityState
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import EvaluationMetric, MetricSetup, Sample, TowerKind


def _features(setup: MetricSetup, samples: Sequence[Sample]) -> Sequence[Any]:
    from loraloom.extensions.metrics._towers import tower_of

    return tower_of(setup).images(samples)


class Dino(Similarity):
    """The metric `dino`."""

    name = "dino"
    tower: TowerKind = "vision"

    def start(self, setup: MetricSetup) -> SimilarityState:
        """An empty state."""
        return SimilarityState(setup, "dino", "DINO to the references", _features)


METRIC: EvaluationMetric = Dino()
CONTRACT = MetricContract(figures=("dino",))
