"""The table of nodes while a run is watched: every node's own figures, and rates of the time between two answers."""

from dataclasses import dataclass, field
from typing import Any

from loraloom.cluster.live_table import HEADER, LiveTable
from loraloom.cluster.plan import plan_attempt

from .test_plan import RUN, member


@dataclass
class View:
    answered_at: float
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    finished: bool = False


def test_each_node_shows_its_ranks_gpus_network_and_speed_and_the_last_row_all() -> None:
    attempt = plan_attempt(RUN, [member("a", 1), member("bb", 2)], 1)
    numbers = {"step": 40, "images_per_second": 5.96, **{f"rank_{k}_images_per_second": 2.0 for k in range(3)}}
    gpu = {"busy_percent": 97, "used_mib": 2048}
    views = {
        "a": View(10.0, {"numbers": numbers, "gpus": [gpu], "traffic": 1_000_000}),
        "bb": View(10.0, {"gpus": [gpu, gpu]}),
    }
    table = LiveTable()
    assert table.rows(attempt, views, 10.5)[0][4] == "", "no rate after one answer"
    views["a"].answered_at, views["a"].answer["traffic"] = 12.0, 5_000_000
    views["bb"].answered_at = 1.0
    rows = table.rows(attempt, views, 12.0)
    assert [dict(zip(HEADER, row, strict=True)) for row in rows] == [
        dict(zip(HEADER, ("a", "0", "97%", "2.0 GiB", "2.0 MB/s", "", "2.0", "now"), strict=True)),
        dict(zip(HEADER, ("bb", "1,2", "97%/97%", "2.0 GiB/2.0 GiB", "", "", "4.0", "11 s ago"), strict=True)),
        dict(zip(HEADER, ("all", "3", "", "", "", "40", "6.0", ""), strict=True)),
    ]
    assert table.rows(attempt, views, 12.5)[0][4] == "2.0 MB/s", "the rate stays until the next answer"


def test_nodes_without_an_answer_yet_are_rows_too() -> None:
    attempt = plan_attempt(RUN, [member("a", 1)], 1)
    assert LiveTable().rows(attempt, {"a": View(0.0)}, 1.0) == [
        ("a", "0", "", "", "", "", "", "now"),
        ("all", "1", "", "", "", "", "", ""),
    ]
