"""Rows of numbers by role and sample id: what every metric's state is made of.

In: one vector for each sample. Out: matrices in the order of the ids, whatever the order and the process that the samples
came in, so that merged shards give the bits of a single pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraloom.protocols.evaluation import MetricState

Matrix = NDArray[np.float64]


class Rows:
    """Vectors of equal length by role and id, each with a group: samples of one group are not independent.

    Attributes:
        vectors: Role to id to (d,) float32.
        groups: Role to id to the group's name.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, dict[str, NDArray[np.float32]]] = {}
        self.groups: dict[str, dict[str, str]] = {}

    def add(self, role: str, id_: str, vector: Any, group: str = "") -> None:
        """Keep one row; the same row twice counts once."""
        row = np.asarray(vector, np.float32).reshape(-1)
        known = self.vectors.setdefault(role, {})
        assert id_ not in known or np.array_equal(known[id_], row, equal_nan=True), f"two samples are called {id_}"
        known[id_] = row
        self.groups.setdefault(role, {})[id_] = group

    def ids(self, role: str) -> list[str]:
        """Sorted."""
        return sorted(self.vectors.get(role, {}))

    def count(self, role: str) -> int:
        """Rows of a role."""
        return len(self.vectors.get(role, {}))

    def matrix(self, role: str) -> Matrix:
        """(n, d) float64 in the order of `ids`."""
        ids = self.ids(role)
        if not ids:
            return np.zeros((0, 0))
        return np.stack([self.vectors[role][id_] for id_ in ids]).astype(np.float64)

    def group_list(self, role: str) -> list[str]:
        """The group of each row in the order of `ids`; the id itself where there is none."""
        return [self.groups[role][id_] or id_ for id_ in self.ids(role)]

    def merge_state(self, others: Sequence[MetricState]) -> None:
        """Take the rows of others."""
        for other in others:
            if not isinstance(other, Rows) or type(other) is not type(self):
                raise TypeError(f"a {type(self).__name__} merges with its like only")
            for role, rows in other.vectors.items():
                for id_, row in rows.items():
                    self.add(role, id_, row, other.groups[role][id_])

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """`ROLE.ids`, `ROLE.groups` and `ROLE.rows` of each role."""
        state: dict[str, NDArray[np.generic]] = {}
        for role in sorted(self.vectors):
            ids = self.ids(role)
            state[f"{role}.ids"] = np.array(ids)
            state[f"{role}.groups"] = np.array([self.groups[role][id_] for id_ in ids])
            state[f"{role}.rows"] = np.stack([self.vectors[role][id_] for id_ in ids])
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Rows that `state_dict` gave."""
        self.vectors, self.groups = {}, {}
        for name in state:
            role, _, part = name.rpartition(".")
            if part == "ids":
                rows = zip(state[name], state[f"{role}.groups"], state[f"{role}.rows"], strict=True)
                for id_, group, row in rows:
                    self.add(role, str(id_), row, str(group))
