"""Images with the adapter on beside the same requests with it off: what `drift` and `leakage` have in common."""

from collections.abc import Sequence

import numpy as np

from loraloom.extensions.metrics._distances import normalised
from loraloom.extensions.metrics._rows import Rows
from loraloom.protocols.evaluation import MetricSetup, Role, Sample


class PairState(Rows):
    """Embeddings of some roles under the name of their pair, so that the two of one request stand together.

    Args:
        setup: What the metric was given.
        paired: Roles whose samples are kept by pair.
        single: Roles whose samples are kept by id.
    """

    def __init__(self, setup: MetricSetup, paired: tuple[Role, ...], single: tuple[Role, ...] = ()) -> None:
        super().__init__()
        self.setup, self._paired, self._single = setup, paired, single

    def update(self, samples: Sequence[Sample]) -> None:
        """Keep the embeddings of these roles."""
        from loraloom.extensions.metrics._towers import tower_of

        own = [sample for sample in samples if sample.role in (*self._paired, *self._single)]
        for sample, row in zip(own, tower_of(self.setup).images(own) if own else [], strict=True):
            self.add(sample.role, sample.pair if sample.role in self._paired else sample.id, row, sample.group)

    def both(self, one: Role, other: Role) -> list[str]:
        """Pairs that both roles have, sorted."""
        return sorted(set(self.ids(one)) & set(self.ids(other)))

    def unit_rows(self, role: Role, ids: Sequence[str]) -> np.ndarray:
        """(n, d) unit vectors."""
        return normalised(np.stack([self.vectors[role][id_] for id_ in ids]).astype(np.float64))
