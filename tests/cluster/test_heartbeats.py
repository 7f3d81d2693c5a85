"""Heartbeats: a rank that hangs, and a node that trains alone, are named from what all ranks wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from loraloom.cluster.heartbeats import GangWatch, beats_of, hanging, stall_text
from loraloom.utils.heartbeat import SIZE, Heartbeat, node_name, read_heartbeat


def row(
    rank: int, entered: int, step: int = 4, *, weights: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    record = {"entered": entered, "step": step, "weights": weights or {}}
    return {"rank": rank, "running": True, "stopped": False, "heartbeat": record, **more}


def answers(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Ranks 0 and 1 on ada, the others on bob."""
    return {"bob": {"ranks": list(rows[2:])}, "ada": {"ranks": list(rows[:2])}}


def test_the_rank_that_entered_fewer_exchanges_is_the_one_that_hangs() -> None:
    beats = beats_of(answers(row(0, 9), row(1, 9), row(2, 8), row(3, 9)))
    assert [(beat.rank, beat.node) for beat in hanging(beats)] == [(2, "bob")]
    assert stall_text(beats) == "rank 2 of bob hangs after step 4 and the others wait"


def test_a_suspended_process_is_said_to_be_suspended() -> None:
    beats = beats_of(answers(row(0, 9), row(1, 8, stopped=True)))
    assert stall_text(beats).endswith("hangs after step 4 and the others wait; suspended: rank 1 of ada")


def test_a_rank_that_hangs_alone_after_the_others_ended_is_named() -> None:
    beats = beats_of(answers(row(0, 9, running=False), row(1, 7)))
    assert stall_text(beats).startswith("rank 1 of ada hangs")


def test_ranks_at_the_same_place_are_not_accused() -> None:
    beats = beats_of(answers(*(row(rank, 9) for rank in range(6))))
    assert not hanging(beats)
    assert stall_text(beats) == (
        "rank 0 of ada, rank 1 of ada, rank 2 of bob, rank 3 of bob and 2 more are at the same place after step 4"
    )
    assert stall_text(beats_of({"ada": {"ranks": [{"rank": 0, "running": True}]}})) == "", "no heartbeat, no claim"


def test_different_weights_name_the_node_and_the_last_step_at_which_all_were_equal() -> None:
    watch = GangWatch(3)
    same = [row(rank, 1, weights={"5": "a"}) for rank in range(3)]
    assert not watch.fault(beats_of(answers(*same)))
    assert watch.equal == 5
    assert not watch.fault(beats_of(answers(row(0, 2, weights={"10": "b"})))), "the others are not there yet"
    others = [row(1, 2, weights={"10": "b"}), row(2, 2, weights={"10": "c"})]
    found = watch.fault(beats_of(answers(row(0, 3, weights={"15": "d"}), *others)))
    assert found is not None
    assert (found.node, found.rank) == ("bob", 2)
    assert found.text == "bob (rank 2) holds other weights than the rest after step 10; all were equal after step 5"


def test_of_two_ranks_that_differ_the_one_that_is_not_rank_0_is_named() -> None:
    found = GangWatch(2).fault(beats_of(answers(row(0, 1, weights={"5": "a"}), row(1, 1, weights={"5": "b"}))))
    assert found is not None
    assert found.rank == 1


def test_ranks_in_groups_of_their_own_are_named_though_their_weights_are_equal() -> None:
    """Each trains as rank 0, on the same images with the same seeds: the adapters do not differ in one bit."""
    rows = [row(rank, 1, weights={"5": "a"}) for rank in (0, 1)]
    for one in rows:
        one["heartbeat"]["world_size"] = 1
    found = GangWatch(2).fault(beats_of({"ada": {"ranks": rows[:1]}, "bob": {"ranks": rows[1:]}}))
    assert found is not None
    assert found.text == "ada (rank 0), bob (rank 1) joined a process group of 1 in place of 2"


def test_a_heartbeat_is_read_back_whole_and_bounded_however_long_the_run(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    beat = Heartbeat(path)
    for step in range(1, 1001):
        beat.step(step)
        beat.enter()
        beat.weights(step, "f" * 64)
    assert path.stat().st_size == SIZE
    found = read_heartbeat(path)
    assert (found["step"], found["entered"]) == (1000, 1000)
    assert list(found["weights"])[-1] == "1000"
    path.write_bytes(json.dumps(found).encode()[:40])
    assert read_heartbeat(path) == {}, "half a record is none"
    assert read_heartbeat(tmp_path / "none") == {}


def test_without_a_cluster_nothing_is_written_and_the_host_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beat = Heartbeat(None)
    beat.step(1)
    beat.enter()
    assert not beat.active and not list(tmp_path.iterdir())
    monkeypatch.setenv("LORALOOM_NODE", "lab-2")
    assert node_name() == "lab-2"
    monkeypatch.setenv("LORALOOM_NODE", "")
    assert node_name()
