"""Graph hash and coarse image hash of a plan, and the side of the split that follows from the graph.

In: a `Plan`. Out: its graph hash, the hash of its coarse image, `train` or `validation`. The split depends on the
graph,
not on the image: near-duplicates on both sides would inflate every score (RPLAN: about 70 % are near-duplicates).
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby, permutations, product
from typing import Literal

from ..plan import Plan
from ..vision.pixels import Labels
from ..vocabulary import RoomId, inverse

COARSE_PX = 8
"""The image hash uses one pixel of 8 x 8: 32 x 32 of a plan."""


def _renumberings(plan: Plan) -> Iterator[dict[RoomId, RoomId]]:
    """Every way to number the rooms of each type."""
    groups = [list(group) for _, group in groupby((room.id for room in plan.rooms), key=lambda room: room.kind)]
    for orders in product(*(permutations(group) for group in groups)):
        yield {
            old: new for group, order in zip(groups, orders, strict=True) for old, new in zip(group, order, strict=True)
        }


def _graph_text(plan: Plan, names: dict[RoomId, RoomId]) -> str:
    pairs = sorted(tuple(sorted(map(str, (names[first], names[second])))) for first, second in plan.connections)
    octants: list[tuple[str, str, str]] = []
    for position in plan.positions:
        high, word, low = names[position.subject], position.direction, names[position.object]
        if high.rank < low.rank:
            high, word, low = low, inverse(word), high
        octants.append((str(high), word, str(low)))
    return f"{pairs}\n{sorted(octants)}"


def graph_hash(plan: Plan) -> str:
    """sha256 in hex over the room types, the connections and the directions; it does not depend on room numbers."""
    counts = sorted(plan.counts.items())
    return sha256(f"{counts}\n{min(_graph_text(plan, names) for names in _renumberings(plan))}".encode()).hexdigest()


def coarse_hash(labels: Labels) -> str:
    """sha256 in hex of every eighth pixel's class."""
    half = COARSE_PX // 2
    return sha256(labels[half::COARSE_PX, half::COARSE_PX].tobytes()).hexdigest()


def split_of(graph_hash: str, validation_share: float) -> Literal["train", "validation"]:
    """The side of the split that all plans with this graph are on.

    Args:
        graph_hash: As from `graph_hash`.
        validation_share: Expected share of validation plans, 0 .. 1.
    """
    return "validation" if int(graph_hash[:12], 16) < validation_share * 16**12 else "train"
