"""What every node does right now, as rows of a table: while `cluster launch` waits for the end of a run.

In: the last answers of all nodes. Out: one row for each node. Rates are of the time between two answers.
"""

from collections.abc import Mapping
from typing import Protocol

from loraloom.cluster.plan import AttemptPlan
from loraloom.cluster.watching import Row, gpu_cells

HEADER = ("node", "ranks", "GPU", "memory", "network", "step", "images/s", "answered")
LATE_S = 5.0
"""Seconds after which the age of the last answer is shown."""


class View(Protocol):
    """What is known of a node; see `supervisor.NodeView`."""

    answered_at: float
    answer: dict[str, object]
    finished: bool


class LiveTable:
    """Makes the rows, and remembers the traffic of the answers before."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def rows(self, attempt: AttemptPlan, views: Mapping[str, View], now: float) -> list[Row]:
        """One row for each node of an attempt, in order of ranks, and one of sums.

        Args:
            attempt: What runs.
            views: Node -> its last answer and when it came, `time.monotonic`.
            now: `time.monotonic`.
        """
        first = views[attempt.nodes[0].member.host.name].answer
        numbers = first.get("numbers")
        numbers = numbers if isinstance(numbers, dict) else {}
        rows: list[Row] = []
        for node in attempt.nodes:
            name = node.member.host.name
            view = views[name]
            alone = "images_per_second" if attempt.world_size == 1 else None
            speeds = [numbers.get(alone or f"rank_{rank}_images_per_second") for rank in node.ranks]
            known = [speed for speed in speeds if isinstance(speed, (int, float))]
            late = now - view.answered_at
            state = "finished" if view.finished else "now" if late < LATE_S else f"{late:.0f} s ago"
            busy, memory = gpu_cells(view.answer.get("gpus"))
            speed = f"{sum(known):.1f}" if known else ""
            ranks = ",".join(map(str, node.ranks))
            rows.append((name, ranks, busy, memory, self._network(name, view), "", speed, state))
        speed = numbers.get("images_per_second")
        total = f"{speed:.1f}" if isinstance(speed, (int, float)) else ""
        rows.append(("all", str(attempt.world_size), "", "", "", str(numbers.get("step") or ""), total, ""))
        return rows

    def _network(self, name: str, view: View) -> str:
        traffic = view.answer.get("traffic")
        if not isinstance(traffic, int):
            return ""
        at, before = self._before.get(name, (view.answered_at, traffic))
        if view.answered_at > at:
            self._rates[name] = max(0, traffic - before) / (view.answered_at - at) / 1e6
        if view.answered_at != at or name not in self._before:
            self._before[name] = (view.answered_at, traffic)
        return f"{self._rates[name]:.1f} MB/s" if name in self._rates else ""
