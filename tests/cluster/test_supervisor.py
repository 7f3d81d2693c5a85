"""The supervisor with node agents and processes that run: every fault ends in the adapter of an undisturbed run."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loraloom.cluster.agent import Attempt
from loraloom.cluster.faults import cancel_all, late_faults
from loraloom.cluster.links import Link
from loraloom.cluster.outcomes import Outcome, cause_of
from loraloom.utils.errors import UserError
from loraloom.utils.processes import usable_cores

from .conftest import Lab, run_async

Soon = Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]
pytestmark = pytest.mark.slow
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")


@pytest.fixture(scope="session")
def undisturbed(deployed: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of a run that nothing disturbs."""
    from .conftest import Fake

    home = tmp_path_factory.mktemp("home")
    lab = Lab(deployed[0], deployed[1], Fake())
    assert run_async(lab.supervisor("calm", home).supervise()).kind == "finished"
    assert lab.outcomes() == ["finished"]
    return (home / "adapter.safetensors").read_text()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file that lets ranks pass step 3."""
    return tmp_path / "gate"


def adapter(home: Path) -> str:
    return (home / "adapter.safetensors").read_text()


def attempt_of(lab: Lab, node: int, run: str, number: int = 1) -> Attempt:
    return Attempt(Path(lab.hosts[node].root), run, number)


def test_ranks_are_dealt_over_unequal_nodes_and_every_log_line_names_node_and_rank(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_async(lab.supervisor("unequal", tmp_path, processes=(1, 2)).supervise())
    for line in (
        "[ada 0] rank 0 of 3 from step 0",
        "[bob 1] rank 1 of 3 from step 0",
        "[bob 2] rank 2 of 3 from step 0",
    ):
        assert line in lab.said
    assert lab.said.count("[bob 2] done") == 1
    share = max(1, usable_cores() // 2)
    for line in ("[ada 0] threads: all", f"[bob 1] threads: {share}", f"[bob 2] threads: {share}"):
        assert line in lab.said, "ranks of one node share its cores"


@needs_signals
def test_a_killed_rank_restarts_the_gang_from_the_newest_checkpoint(lab: Lab, tmp_path: Path, undisturbed: str) -> None:
    run_async(lab.supervisor("killed", tmp_path, "--die", "1:3:kill").supervise())
    assert adapter(tmp_path) == undisturbed
    assert lab.outcomes() == ["failed", "finished"]
    assert [values["number"] for word, values in lab.events if word == "start"] == [1, 2]
    assert any("rank 1 was killed by SIGKILL" in line and "restarted from step_" in line for line in lab.said)


@needs_signals
def test_an_attempt_that_does_not_start_is_followed_by_another(lab: Lab, tmp_path: Path, undisturbed: str) -> None:
    """What the supervisor cleared away was taken for a stop of the user, and the run ended without a result."""
    lab.fake.unstarted.add("bob")
    run_async(lab.supervisor("unstarted", tmp_path).supervise())
    assert lab.outcomes() == ["failed", "finished"]
    assert any("bob: the ranks did not start" in line and "no memory" in line for line in lab.said)
    assert adapter(tmp_path) == undisturbed


@needs_signals
def test_a_killed_agent_takes_its_ranks_with_it_and_the_run_ends_as_if_undisturbed(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    async def story() -> None:
        supervisor = lab.supervisor("agentless", tmp_path, "--gate", str(gate))
        work = asyncio.create_task(supervisor.supervise())
        attempt = attempt_of(lab, 1, "agentless")
        await soon(lambda: bool(attempt.ranks))
        ranks = [process for _, process, _ in attempt.ranks]
        os.kill(attempt.agent.pid, signal.SIGKILL)
        await soon(lambda: "failed" in lab.outcomes())
        await soon(lambda: not any(process.running() for process in ranks))
        gate.touch()
        await work

    run_async(story())
    assert adapter(tmp_path) == undisturbed
    assert any("node agent was killed" in line for line in lab.said)


def test_a_link_that_is_cut_for_less_than_the_suspect_window_costs_nothing(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    async def story() -> None:
        supervisor = lab.supervisor("blip", tmp_path, "--gate", str(gate), suspect_s=60.0, lease_s=90.0)
        work = asyncio.create_task(supervisor.supervise())
        await soon(lambda: "bob" in supervisor.views and bool(supervisor.views["bob"].answer))
        lab.fake.cut.add("bob")
        await asyncio.sleep(1.0)
        lab.fake.cut.clear()
        gate.touch()
        await work

    run_async(story())
    assert lab.outcomes() == ["finished"]
    assert adapter(tmp_path) == undisturbed


@pytest.mark.long  # waits for a lease that is longer than slow machines need for an answer
def test_a_checkpoint_that_is_fetched_for_longer_than_the_lease_ends_nobody(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    async def story() -> None:
        lab.fake.slow_s = 12.0
        supervisor = lab.supervisor("large", tmp_path, "--gate", str(gate), lease_s=8.0)
        work = asyncio.create_task(supervisor.supervise())
        await soon(lambda: any(word == "fetched" for word, _ in lab.events))
        lab.fake.slow_s = 0.0
        gate.touch()
        await work

    run_async(story())
    assert lab.outcomes() == ["finished"]
    assert adapter(tmp_path) == undisturbed


@pytest.mark.long
def test_a_lost_node_is_left_out_its_orphans_end_with_the_lease_and_it_joins_again(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    """The story of a cable: node 2 is cut off, node 1 continues alone, the cable is back, both train."""

    async def story() -> None:
        supervisor = lab.supervisor("cable", tmp_path, "--gate", str(gate), suspect_s=1.0, lease_s=10.0, min_nodes=1)
        work = asyncio.create_task(supervisor.supervise())
        orphan = attempt_of(lab, 1, "cable")
        await soon(lambda: bool(orphan.ranks) and (tmp_path / "checkpoints").is_dir())
        lab.fake.cut.add("bob")
        await soon(lambda: "lost" in lab.outcomes())
        await soon(lambda: not orphan.agent.running() and not any(p.running() for _, p, _ in orphan.ranks))
        assert "lease ran out" in orphan.state["reason"]
        lab.fake.cut.clear()
        await soon(lambda: "back" in lab.outcomes())
        gate.touch()
        await work

    run_async(story())
    assert adapter(tmp_path) == undisturbed
    assert [values["world_size"] for word, values in lab.events if word == "start"] == [2, 1, 2]
    assert sum("an optimizer step keeps its number of images" in line for line in lab.said) == 2, lab.said


def test_a_run_that_the_user_has_to_repair_is_not_started_again(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused to train") as refused:
        run_async(lab.supervisor("mistake", tmp_path, "--die", "1:2:mistake").supervise())
    assert "the dataset is not there" in str(refused.value)
    assert lab.outcomes() == ["failed"]


@needs_signals
def test_restarts_without_a_new_checkpoint_are_bounded(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="restarted 1 times"):
        run_async(
            lab.supervisor("hopeless", tmp_path, "--die", "0:0:always", max_restarts=1, processes=(1,)).supervise()
        )


@needs_signals
def test_a_rank_that_hangs_is_found_by_its_missing_progress_and_its_stack_is_in_the_log(
    lab: Lab, tmp_path: Path, undisturbed: str
) -> None:
    run_async(lab.supervisor("hang", tmp_path, "--die", "0:3:hang", stall_s=10.0, processes=(1,)).supervise())
    assert lab.outcomes() == ["stalled", "finished"]
    assert "in fail" in attempt_of(lab, 0, "hang").log(0).read_text()
    assert adapter(tmp_path) == undisturbed


@pytest.mark.long
@needs_signals
def test_of_several_ranks_the_one_that_hangs_is_named(lab: Lab, tmp_path: Path, undisturbed: str) -> None:
    run_async(lab.supervisor("hang2", tmp_path, "--die", "1:3:hang", stall_s=10.0).supervise())
    assert lab.outcomes() == ["stalled", "finished"]
    (line,) = [line for line in lab.said if "no progress" in line]
    assert line.startswith("bob: no progress for ")
    assert "s: rank 1 of bob hangs after step 2 and the others wait; the gang is restarted from step_" in line
    assert adapter(tmp_path) == undisturbed


def test_nodes_that_hold_different_weights_are_stopped_by_name(lab: Lab, tmp_path: Path) -> None:
    """Two nodes that train alone each fill a run folder without an error; the adapter would be that of one node."""
    with pytest.raises(UserError, match="the nodes do not train together") as refused:
        run_async(lab.supervisor("apart", tmp_path, "--apart", "1").supervise())
    assert "bob (rank 1) holds other weights than the rest after step 4" in str(refused.value)
    assert "all were equal after step 3" in str(refused.value)
    assert lab.outcomes() == ["apart"]
    for host in lab.hosts:
        rows = lab.ask(host, "runs", {"run": "apart"})["runs"]["apart"]
        assert not rows["agent"] and not any(row["running"] for row in rows["ranks"])


@needs_signals
def test_stop_saves_and_the_same_command_continues(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    async def story() -> None:
        supervisor = lab.supervisor("paused", tmp_path, "--gate", str(gate))
        work = asyncio.create_task(supervisor.supervise())
        await soon(lambda: "ada" in supervisor.views and supervisor.views["ada"].answer.get("checkpoint", "") != "")
        supervisor.stopping.set()
        assert (await work).kind == "stopped"

    run_async(story())
    assert not (tmp_path / "adapter.safetensors").exists()
    for host in lab.hosts:
        rows = lab.ask(host, "runs", {"run": "paused"})["runs"]["paused"]
        assert not rows["agent"] and not any(row["running"] for row in rows["ranks"])
    gate.touch()
    run_async(lab.supervisor("paused", tmp_path, "--gate", str(gate)).supervise())
    assert adapter(tmp_path) == undisturbed


@needs_signals
@pytest.mark.parametrize("how", ["polite", "now"])
def test_a_run_that_is_stopped_from_another_terminal_is_not_restarted(
    lab: Lab, tmp_path: Path, gate: Path, soon: Soon, how: str
) -> None:
    """The lease that `stop` extends made the master believe in another master; a killed agent made it restart the gang."""

    async def story() -> None:
        name = f"asked-{how}"
        supervisor = lab.supervisor(name, tmp_path, "--gate", str(gate))
        work = asyncio.create_task(supervisor.supervise())
        await soon(lambda: len([view for view in supervisor.views.values() if view.answer.get("ranks")]) == 2)
        links = [Link(host, lab.fake.connect) for host in lab.hosts]
        agent = [lab.member(host, name).agent("stop") for host in lab.hosts]
        question = {"run": name, "how": how, "by_user": True}
        await asyncio.gather(*(link.ask(line, question) for link, line in zip(links, agent, strict=True)))
        assert (await work).kind == "stopped"

    run_async(story())
    assert lab.outcomes() == ["stopped"]
    for host in lab.hosts:
        rows = lab.ask(host, "runs", {"run": f"asked-{how}"})["runs"][f"asked-{how}"]
        assert not rows["agent"] and not any(row["running"] for row in rows["ranks"])


def test_a_run_that_is_stopped_while_it_waits_for_a_lost_node_starts_no_more(
    lab: Lab, tmp_path: Path, gate: Path, soon: Soon
) -> None:
    async def story() -> None:
        supervisor = lab.supervisor("waits", tmp_path, "--gate", str(gate), suspect_s=1.0)
        work = asyncio.create_task(supervisor.supervise())
        await soon(lambda: len([view for view in supervisor.views.values() if view.answer.get("ranks")]) == 2)
        lab.fake.cut.add("bob")
        await soon(lambda: any("waiting for bob" in line for line in lab.said))
        link = Link(lab.hosts[0], lab.fake.connect)
        question = {"run": "waits", "how": "polite", "by_user": True}
        await link.ask(lab.member(lab.hosts[0], "waits").agent("stop"), question)
        assert (await work).kind == "stopped"

    run_async(story())
    assert lab.outcomes() == ["lost", "stopped"]
    assert [values["number"] for word, values in lab.events if word == "start"] == [1]


def test_a_master_that_died_is_replaced_without_a_restart_of_the_ranks(
    lab: Lab, tmp_path: Path, gate: Path, undisturbed: str, soon: Soon
) -> None:
    async def story() -> None:
        first = lab.supervisor("reboot", tmp_path, "--gate", str(gate))
        work = asyncio.create_task(first.supervise())
        await soon(lambda: "bob" in first.views and bool(first.views["bob"].answer))
        work.cancel()  # as a kill: nothing is said to the nodes
        await asyncio.gather(work, return_exceptions=True)
        second = lab.supervisor("reboot", tmp_path, "--gate", str(gate))
        work = asyncio.create_task(second.supervise())
        await soon(lambda: bool(second.views) and all(view.answer for view in second.views.values()))
        gate.touch()
        await work

    run_async(story())
    assert any("taking over attempt reboot-1" in line for line in lab.said)
    assert [values["number"] for word, values in lab.events if word == "start"] == [1]
    assert adapter(tmp_path) == undisturbed


def test_a_second_master_makes_the_first_one_leave(lab: Lab, tmp_path: Path, gate: Path, soon: Soon) -> None:
    async def story() -> None:
        first = lab.supervisor("two", tmp_path, "--gate", str(gate))
        work = asyncio.create_task(first.supervise())
        await soon(lambda: len(first.views) == 2 and all(view.answer for view in first.views.values()))
        second = asyncio.create_task(lab.supervisor("two", tmp_path, "--gate", str(gate)).supervise())
        with pytest.raises(UserError, match="took this run over"):
            await work
        gate.touch()
        assert (await second).kind == "finished"

    run_async(story())


def test_a_watch_that_swallows_a_cancellation_does_not_keep_the_supervisor_waiting() -> None:
    """`wait_for` of Python 3.11 returns a result that comes with a cancellation: one of five stops hung on a busy machine."""

    async def story() -> None:
        swallowed: list[bool] = []

        async def watch() -> None:
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if swallowed:
                        raise
                    swallowed.append(True)

        task = asyncio.create_task(watch())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await cancel_all([task])
        assert task.cancelled() and swallowed

    run_async(story())


def test_a_rank_that_was_killed_is_named_before_those_that_lost_it() -> None:
    echo = Outcome(kind="failed", node="ada", text="rank 0 ended with status 3", status=3, rank=0)
    cause = Outcome(kind="failed", node="bob", text="rank 1 was killed by SIGKILL", status=-9, rank=1)

    async def late(outcome: Outcome) -> Outcome:
        await asyncio.sleep(0.05)
        return outcome

    async def story(first: Outcome, other: Outcome) -> Outcome:
        tasks = [asyncio.create_task(late(other))]
        found = cause_of([first, *await late_faults([first], tasks, 5.0)])
        await cancel_all(tasks)
        return found

    assert run_async(story(echo, cause)) == run_async(story(cause, echo)) == cause


def test_a_second_rank_that_lost_the_killed_one_does_not_hide_it_nor_does_a_node_that_finished() -> None:
    echoes = [
        Outcome(kind="failed", node=name, text=f"rank {rank} ended with status 3", status=3, rank=rank)
        for rank, name in enumerate(("ada", "bob"))
    ]
    cause = Outcome(kind="failed", node="eve", text="rank 2 was killed by SIGKILL", status=-9, rank=2)

    async def after(seconds: float, outcome: Outcome) -> Outcome:
        await asyncio.sleep(seconds)
        return outcome

    async def story(second: Outcome, third: Outcome) -> Outcome:
        tasks = [asyncio.create_task(after(0.05, second)), asyncio.create_task(after(0.3, third))]
        return cause_of([echoes[0], *await late_faults(echoes[:1], tasks, 30.0)])

    assert run_async(story(echoes[1], cause)) == cause
    assert run_async(story(Outcome(kind="finished", node="bob"), cause)) == cause
    assert run_async(story(echoes[1], Outcome(kind="finished", node="eve"))).kind == "failed"


def test_strict_settings_forbid_to_train_with_fewer_nodes(lab: Lab, tmp_path: Path) -> None:
    supervisor = lab.supervisor("strict", tmp_path, min_nodes=1)
    supervisor.run = replace(supervisor.run, strict=True)
    lab.fake.cut.add("bob")
    with pytest.raises(UserError, match="fewer nodes than planned"):
        run_async(supervisor.supervise())
    assert not lab.outcomes()
