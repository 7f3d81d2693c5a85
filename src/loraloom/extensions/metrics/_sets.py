"""Distances between the set of generated images and the set of references: what `fid`, `kid` and `cmmd` have in common."""

from collections.abc import Sequence
from typing import Literal

from loraloom.extensions.metrics._figures import few
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.evaluation import Available, MetricSetup, Role, Sample, TowerKind

SCORED = ("generated", "reference")


class SetState(Rows):
    """CLIP embeddings of generated and reference images.

    Args:
        setup: What the metric was given.
        crop: How an image becomes a square, see `Preprocessing.pixels`.
    """

    def __init__(self, setup: MetricSetup, crop: Literal["center", "squash"] = "center") -> None:
        super().__init__()
        self.setup, self._crop = setup, crop

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep the embeddings of generated and reference images."""
        from loraloom.extensions.metrics._towers import tower_of

        own = [sample for sample in samples if sample.role in SCORED]
        rows = tower_of(self.setup).images(own, crop=self._crop) if own else []
        for sample, row in zip(own, rows, strict=True):
            self.add(sample.role, sample.id, row, sample.group)

    @property
    def counts(self) -> tuple[int, int]:
        """Images, references."""
        return self.count("generated"), self.count("reference")


class SetMetric:
    """A metric of that kind: reads generated and reference images, at least two of each."""

    roles: tuple[Role, ...] = ("generated", "reference")
    tower: TowerKind = "clip"

    def missing(self, there: Available) -> str | None:
        """Two of each."""
        return few(there, "reference", 2, "reference images") or few(there, "generated", 2)
