"""Memorisation: whether images are copies of training images, by the nearest one over all eight flips and quarter turns.

Two looks: the least Hamming distance of 64-bit perceptual hashes (a mirrored copy counts), and the largest cosine of CLIP
image embeddings. `copies` is the share of images within `copy_bits` of a reference. Images of one kind are near each
other by nature: real held-out images show how near, so read the figure beside that anchor (Somepalli et al. 2023 use SSCD
embeddings for the same end).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loraloom.extensions.metrics._distances import nearest
from loraloom.extensions.metrics._figures import few, mean_figure
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind
from loraloom.protocols.settings import Settings, setting

HASH_BITS = 64


class MemorisationSettings(Settings):
    """Settings of the metric memorisation."""

    copy_bits: int = setting(
        6,
        "Largest difference of two 64-bit perceptual hashes, in bits, at which an image counts as a copy of a training image.",
        flag="--copy-bits",
        ge=0,
        le=32,
    )


class MemorisationState(Rows):
    """Embeddings and hashes; the hashes of all eight orientations as 8 x 64 bits."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._setup = setup
        self._hashes: dict[str, Any] = setup.shared.setdefault("perceptual hashes", {})

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep embeddings and hashes of generated and reference images."""
        from loraloom.extensions.metrics._towers import tower_of

        own = [sample for sample in samples if sample.role in ("generated", "reference")]
        for sample, row in zip(own, tower_of(self._setup).images(own) if own else [], strict=True):
            self.add(sample.role, sample.id, row, sample.group)
            self.add(f"{sample.role} hashes", sample.id, self._bits(sample))

    def _bits(self, sample: Sample) -> Any:
        from loraloom.utils.perceptual_hash import perceptual_hashes

        if sample.id not in self._hashes:
            assert sample.open is not None
            words = np.array(perceptual_hashes(sample.open()), np.uint64)
            shifts = np.arange(HASH_BITS, dtype=np.uint64)
            self._hashes[sample.id] = (words[:, None] >> shifts & np.uint64(1)).astype(np.float32)
        return self._hashes[sample.id]

    def compute(self) -> list[Figure]:
        """The mean distance to the nearest reference in both spaces, and the share of copies."""
        ids, references = self.ids("generated"), self.ids("reference")
        if not ids or not references:
            return []
        own = self.matrix("generated hashes")[:, :HASH_BITS]
        real = self.matrix("reference hashes").reshape(len(references), -1, HASH_BITS)
        # Bits differ where one is 1 and the other 0: a + b - 2ab, summed by matrix products.
        bits = np.stack(
            [
                own.sum(1)[:, None] + real[:, turn].sum(1)[None] - 2 * own @ real[:, turn].T
                for turn in range(real.shape[1])
            ]
        ).min(axis=0)
        cosines, places = nearest(self.matrix("generated"), self.matrix("reference"))
        limit = int(self._setup.options.get("copy_bits", 6))
        groups, seed = self.group_list("generated"), self._setup.seed
        least = bits.argmin(axis=1)
        by_hash = {id_: references[place] for id_, place in zip(ids, least, strict=True)}
        by_cosine = {id_: references[place] for id_, place in zip(ids, places, strict=True)}
        found = [
            ("copies", f"copies (within {limit} of 64 bits)", bits.min(axis=1) <= limit, -1, by_hash),
            ("nearest_bits", "bits to the nearest reference", bits.min(axis=1), 0, by_hash),
            ("nearest_cosine", "cosine to the nearest reference", cosines, 0, by_cosine),
        ]
        return [
            mean_figure(
                name, label, values.astype(np.float64), ids, groups, seed,
                better=better, references=len(references), nearest=pairs,
            )
            for name, label, values, better, pairs in found
        ]  # fmt: skip


class Memorisation:
    """The metric `memorisation`."""

    name = "memorisation"
    roles: tuple[Role, ...] = ("generated", "reference")
    tower: TowerKind = "clip"
    settings = MemorisationSettings

    def missing(self, there: Available) -> str | None:
        """References."""
        return few(there, "reference", 1) or few(there, "generated", 1)

    def start(self, setup: MetricSetup) -> MemorisationState:
        """An empty state."""
        return MemorisationState(setup)


METRIC: EvaluationMetric = Memorisation()
CONTRACT = MetricContract(figures=("copies", "nearest_bits", "nearest_cosine"))
