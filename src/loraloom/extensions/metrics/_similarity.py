"""Mean cosine similarity to reference images in some feature space: what `clip_i`, `dino` and `style` have in common."""

from collections.abc import Callable, Sequence
from typing import Any

from loraloom.extensions.metrics._distances import mean_cosines, nearest
from loraloom.extensions.metrics._figures import few, mean_figure
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.evaluation import Available, Figure, MetricSetup, Role, Sample

Features = Callable[[MetricSetup, Sequence[Sample]], Sequence[Any]]


class SimilarityState(Rows):
    """Feature vectors of generated and reference images.

    Args:
        setup: What the metric was given.
        name, label: Name and label of its figure.
        features: The vectors of some samples.
    """

    def __init__(self, setup: MetricSetup, name: str, label: str, features: Features) -> None:
        super().__init__()
        self._setup, self._name, self._label, self._features = setup, name, label, features

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep the vectors of generated and reference images."""
        own = [sample for sample in samples if sample.role in ("generated", "reference")]
        for sample, row in zip(own, self._features(self._setup, own) if own else [], strict=True):
            self.add(sample.role, sample.id, row, sample.group)

    def compute(self) -> list[Figure]:
        """For each image its mean cosine with all references, and the mean over images."""
        ids, references = self.ids("generated"), self.ids("reference")
        if not ids or not references:
            return []
        rows, real = self.matrix("generated"), self.matrix("reference")
        _, places = nearest(rows, real)
        return [
            mean_figure(
                self._name,
                self._label,
                mean_cosines(rows, real),
                ids,
                self.group_list("generated"),
                self._setup.seed,
                better=1,
                references=len(references),
                nearest={id_: references[place] for id_, place in zip(ids, places, strict=True)},
            )
        ]


class Similarity:
    """A metric of that kind: reads generated and reference images."""

    roles: tuple[Role, ...] = ("generated", "reference")

    def missing(self, there: Available) -> str | None:
        """References."""
        return few(there, "reference", 1) or few(there, "generated", 1)
