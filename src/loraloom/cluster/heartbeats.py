"""What the heartbeats of all ranks say together: which ranks hang, and whether all nodes hold the same weights.

In: the newest answer of each node agent. Out: names of ranks and nodes. Pure; nothing is asked here.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_NAMES = 4
"""Ranks that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A rank as it was last heard of.

    Attributes:
        node: Its host.
        rank: Its number.
        entered: Exchanges with the others that it has entered.
        step: Finished steps.
        weights: Step -> hash of its weights.
        running: Whether its process runs.
        suspended: Whether its process is stopped by a signal.
    """

    node: str
    rank: int
    entered: int
    step: int
    weights: dict[int, str]
    running: bool = True
    suspended: bool = False


def beats_of(answers: Mapping[str, Mapping[str, Any]]) -> list[Beat]:
    """The ranks that have written a heartbeat, in order; `answers` by node."""
    found: list[Beat] = []
    for node, answer in answers.items():
        for row in answer.get("ranks", []):
            record = row.get("heartbeat") or {}
            if record:
                weights = {int(step): str(text) for step, text in (record.get("weights") or {}).items()}
                found.append(
                    Beat(
                        node=node,
                        rank=int(row["rank"]),
                        entered=int(record.get("entered", 0)),
                        step=int(record.get("step", 0)),
                        weights=weights,
                        running=bool(row.get("running")),
                        suspended=bool(row.get("stopped")),
                    )
                )
    return sorted(found, key=lambda beat: beat.rank)


def hanging(beats: list[Beat]) -> list[Beat]:
    """The ranks that the others wait for: they run and have entered fewer exchanges; none where all are at the same place."""
    most = max((beat.entered for beat in beats), default=0)
    return [beat for beat in beats if beat.running and beat.entered < most]


def stall_text(beats: list[Beat]) -> str:
    """Who hangs, a clause for messages; empty where no rank has written a heartbeat."""
    running = [beat for beat in beats if beat.running]
    late = hanging(beats)
    if late:
        verb = "hangs" if len(late) == 1 else "hang"
        text = f"{_names(late)} {verb} after step {late[0].step} and the others wait"
    elif running:
        text = (
            f"{_names(running)} {'is' if len(running) == 1 else 'are'} at the same place after step {running[0].step}"
        )
    else:
        return ""
    suspended = [beat for beat in late or running if beat.suspended]
    return text + (f"; suspended: {_names(suspended)}" if suspended else "")


def _names(beats: list[Beat]) -> str:
    shown = [f"rank {beat.rank} of {beat.node}" for beat in beats[:MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(beats) - MOST_NAMES} more" if len(beats) > MOST_NAMES else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A rank whose weights are not those of the most.

    Attributes:
        node: Its host.
        rank: Its number.
        step: Finished steps.
    """

    node: str
    rank: int
    step: int


@dataclass(slots=True)
class WeightWatch:
    """Hashes of all ranks by step, kept until all ranks have given theirs.

    Attributes:
        world_size: Number of ranks.
        equal: Newest step after which all ranks held the same weights; None: none yet.
    """

    world_size: int
    equal: int | None = None
    _seen: dict[int, dict[int, tuple[str, str]]] = field(default_factory=dict[int, dict[int, tuple[str, str]]])

    def differing(self, beats: list[Beat]) -> list[Differing]:
        """The ranks that differ from the most, or from rank 0, after the first step where any does; empty: none does."""
        for beat in beats:
            for step, text in beat.weights.items():
                if self.equal is None or step > self.equal:
                    self._seen.setdefault(step, {})[beat.rank] = (text, beat.node)
        for step in sorted(self._seen):
            ranks = dict(sorted(self._seen[step].items()))
            counts = Counter(text for text, _ in ranks.values())
            if len(counts) > 1:
                usual = counts.most_common(1)[0][0]  # of equal counts the first: rank 0's
                found = [(rank, node) for rank, (text, node) in ranks.items() if text != usual]
                return [Differing(node=node, rank=rank, step=step) for rank, node in found]
            if len(ranks) == self.world_size:
                self.equal = step
                self._seen = {later: seen for later, seen in self._seen.items() if later > step}
        return []

    def text(self, others: list[Differing]) -> str:
        """What `differing` found, for messages."""
        names = ", ".join(f"{one.node} (rank {one.rank})" for one in others)
        verb = "holds" if len(others) == 1 else "hold"
        before = f"; all were equal after step {self.equal}" if self.equal is not None else ""
        return f"{names} {verb} other weights than the rest after step {others[0].step}{before}"
