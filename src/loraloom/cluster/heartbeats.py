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
        world_size: Ranks of the process group that it joined; 0: not yet.
        entered: Exchanges with the others that it has entered.
        step: Finished steps.
        weights: Step -> hash of its weights.
        running: Whether its process runs.
        suspended: Whether its process is stopped by a signal.
    """

    node: str
    rank: int
    world_size: int
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
                        world_size=int(record.get("world_size", 0)),
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
class Apart:
    """A gang that does not train together.

    Attributes:
        node: Host of the first rank that is apart.
        rank: That rank.
        text: All of them, and how they are apart.
    """

    node: str
    rank: int
    text: str


@dataclass(slots=True)
class GangWatch:
    """Whether all ranks joined one process group and hold the same weights; hashes are kept until all gave theirs.

    Attributes:
        world_size: Number of ranks.
        equal: Newest step after which all ranks held the same weights; None: none yet.
    """

    world_size: int
    equal: int | None = None
    _seen: dict[int, dict[int, tuple[str, str]]] = field(default_factory=dict[int, dict[int, tuple[str, str]]])

    def fault(self, beats: list[Beat]) -> Apart | None:
        """The ranks that are in another group, or hold other weights than the most, or than rank 0; None: all is well.

        Ranks in groups of their own may learn the same, each from the images of rank 0: their weights do not tell.
        """
        alone = [beat for beat in beats if beat.world_size not in (0, self.world_size)]
        if alone:
            sizes = " and ".join(str(size) for size in sorted({beat.world_size for beat in alone}))
            names = ", ".join(f"{beat.node} (rank {beat.rank})" for beat in alone)
            text = f"{names} joined a process group of {sizes} in place of {self.world_size}"
            return Apart(node=alone[-1].node, rank=alone[-1].rank, text=text)
        return self._differing(beats)

    def _differing(self, beats: list[Beat]) -> Apart | None:
        for beat in beats:
            for step, text in beat.weights.items():
                if self.equal is None or step > self.equal:
                    self._seen.setdefault(step, {})[beat.rank] = (text, beat.node)
        for step in sorted(self._seen):
            ranks = dict(sorted(self._seen[step].items()))
            counts = Counter(text for text, _ in ranks.values())
            if len(counts) > 1:
                usual = counts.most_common(1)[0][0]  # of equal counts the first: rank 0's
                others = [(node, rank) for rank, (text, node) in ranks.items() if text != usual]
                names = ", ".join(f"{node} (rank {rank})" for node, rank in others)
                before = f"; all were equal after step {self.equal}" if self.equal is not None else ""
                text = (
                    f"{names} {'holds' if len(others) == 1 else 'hold'} other weights than the rest after step {step}"
                )
                return Apart(node=others[0][0], rank=others[0][1], text=text + before)
            if len(ranks) == self.world_size:
                self.equal = step
                self._seen = {later: seen for later, seen in self._seen.items() if later > step}
        return None
