"""Graph edit distance between two graphs of rooms: exact for plans, with a bounded search for larger graphs.

In: two graphs, nodes by type of room, edges by door. Out: their edit distance with unit costs. Rooms are interchangeable
within a type; a room of another type costs one edit.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..vocabulary import RoomId

MOST_LOOKS = 200_000
"""Comparisons of two rooms after which the search stops (up to a second); two plans take a few hundred."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An undirected graph without loops.

    Attributes:
        kinds: Type of each node.
        edges: Pairs of indices into `kinds`.
    """

    kinds: tuple[str, ...]
    edges: frozenset[frozenset[int]]


@dataclass(frozen=True, slots=True)
class Distance:
    """Result of a search.

    Attributes:
        edits: The smallest number of edits that was found.
        exact: True when no smaller number is possible; False when the search was stopped at its limit.
    """

    edits: int
    exact: bool


def graph_of(rooms: Sequence[RoomId], pairs: Iterable[tuple[RoomId, RoomId]]) -> Graph:
    """A graph of rooms, each listed once. A room paired with itself is left out; a repeated pair is one edge."""
    places = {room: place for place, room in enumerate(rooms)}
    edges = (frozenset((places[first], places[second])) for first, second in pairs)
    return Graph(tuple(room.kind for room in rooms), frozenset(edge for edge in edges if len(edge) == 2))


def edit_distance(first: Graph, second: Graph, most_looks: int = MOST_LOOKS) -> Distance:
    """Graph edit distance with cost 1 to insert or delete a node or an edge and to change a node's type.

    This is the compatibility score of House-GAN (Nauata et al. 2020, after Abu-Aisheh et al. 2015), but exact, while
    published numbers use the first approximation of networkx. Deleting a node and inserting another never costs less
    than changing the type of one, so a cheapest sequence maps every node of the smaller graph to one of the larger:

        distance = (nodes larger - nodes smaller) + mapped pairs of different types
                 + edges of either graph that have no counterpart in the other

    The search maps nodes in order of decreasing degree and drops a branch that cannot improve on the best result.
    """
    small, large = sorted((first, second), key=lambda graph: len(graph.kinds))
    search = _Search(small, large, most_looks)
    search.run(0, 0, [])
    return Distance(search.best, not search.tired)


class _Search:
    """Branch and bound; sets of nodes are bits of an integer."""

    def __init__(self, small: Graph, large: Graph, most_looks: int) -> None:
        degrees = Counter(node for edge in small.edges for node in edge)
        self.order = sorted(range(len(small.kinds)), key=lambda node: -degrees[node])
        self.kinds = small.kinds, large.kinds
        self.near = _neighbours(small), _neighbours(large)
        self.num_spare = len(large.kinds) - len(small.kinds)
        self.all_large = (1 << len(large.kinds)) - 1
        self.best = _first_try(small, large)
        self.looks_left, self.tired = most_looks, False

    def run(self, done: int, cost: int, images: list[int]) -> None:
        """Map the nodes from index `done`. `cost` is that of the mapped nodes, `images` are the nodes that they map to."""
        used = sum(1 << image for image in images)
        if done == len(self.order):
            # The unmapped nodes of the larger graph are inserted with all their edges.
            left = self.all_large & ~used
            self.best = min(self.best, cost + self.num_spare + _edges_at(self.near[1], left))
            return
        if self.looks_left <= 0:
            self.tired = True
            return
        node = self.order[done]
        self.looks_left -= (len(self.order) - done) * len(self.kinds[1])
        choices: list[tuple[int, int, int]] = []
        tried: set[tuple[str, int]] = set()
        for image in range(len(self.kinds[1])):
            alike = self.kinds[1][image], self.near[1][image]
            if used >> image & 1 or alike in tried:  # equivalent nodes: one is enough
                continue
            tried.add(alike)
            paid = cost + (self.kinds[0][node] != self.kinds[1][image])
            for earlier, other in zip(self.order, images, strict=False):
                paid += (self.near[0][node] >> earlier & 1) != (self.near[1][image] >> other & 1)
            choices.append((paid + self._least(done + 1, [*images, image]), paid, image))
        for bound, paid, image in sorted(choices):
            if bound >= self.best:
                return
            self.run(done + 1, paid, [*images, image])

    def _least(self, done: int, images: list[int]) -> int:
        """Lower bound of the remaining cost: types, edges from mapped to unmapped nodes, edges among unmapped nodes."""
        open_small = sum(1 << node for node in self.order[done:])
        open_large = self.all_large & ~sum(1 << image for image in images)
        wanted = Counter(self.kinds[0][node] for node in self.order[done:])
        there = Counter(kind for node, kind in enumerate(self.kinds[1]) if open_large >> node & 1)
        least = self.num_spare + wanted.total() - (wanted & there).total()
        for node, image in zip(self.order, images, strict=False):
            least += abs((self.near[0][node] & open_small).bit_count() - (self.near[1][image] & open_large).bit_count())
        return least + abs(_edges_within(self.near[0], open_small) - _edges_within(self.near[1], open_large))


def _first_try(small: Graph, large: Graph) -> int:
    """Cost of mapping nodes of equal type in the order of their numbers."""
    images: dict[int, int] = {}
    for like in (True, False):
        for node, kind in enumerate(small.kinds):
            free = (place for place in range(len(large.kinds)) if place not in images.values())
            if node not in images and (there := [place for place in free if not like or large.kinds[place] == kind]):
                images[node] = there[0]
    moved = {frozenset(images[node] for node in edge) for edge in small.edges}
    unlike = sum(small.kinds[node] != large.kinds[image] for node, image in images.items())
    return len(large.kinds) - len(small.kinds) + unlike + len(moved ^ large.edges)


def _neighbours(graph: Graph) -> list[int]:
    near = [0] * len(graph.kinds)
    for edge in graph.edges:
        first, second = edge
        near[first] |= 1 << second
        near[second] |= 1 << first
    return near


def _edges_within(near: list[int], nodes: int) -> int:
    """Number of edges with both ends in `nodes`."""
    return sum((each & nodes).bit_count() for node, each in enumerate(near) if nodes >> node & 1) // 2


def _edges_at(near: list[int], nodes: int) -> int:
    """Number of edges with at least one end in `nodes`."""
    ends = sum(each.bit_count() for node, each in enumerate(near) if nodes >> node & 1)
    return ends - _edges_within(near, nodes)
