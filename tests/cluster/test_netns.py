"""Hosts with SSH servers in network namespaces: deploy, launch, and every fault of the table, on one machine as root."""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns_lab import Laboratory, laboratory, missing

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reason() -> str:
    return missing()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without its weights: what is shipped in these tests is to be small."""
    folder = tmp_path_factory.mktemp("project")
    for path in (ROOT / "src" / "loraloom").rglob("*.py"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def lab(reason: str, tmp_path: Path) -> Iterator[Laboratory]:
    """Three hosts; host 1 is the master."""
    pytest.importorskip("asyncssh")
    if reason:
        pytest.skip(reason)
    with laboratory(tmp_path, 3) as made:
        yield made


def worker(lab: Laboratory, host: int, **more: Any) -> dict[str, Any]:
    return {
        "address": lab.address(host),
        "name": f"host-{host}",
        "user": "root",
        "key_file": str(lab.key),
        "known_hosts": str(lab.known_hosts),
        "python": sys.executable,
        **more,
    }


class Story:
    """A supervised run of the stand-in on some hosts of the laboratory."""

    def __init__(
        self,
        lab: Laboratory,
        project: Path,
        *,
        hosts: int = 2,
        workers: dict[int, dict[str, Any]] | None = None,
        preflight: bool = False,
        **config: Any,
    ) -> None:
        self.lab, self.folder, self.gate = lab, lab.home(1), lab.folder / "gate"
        master = {"address": "127.0.0.1", "name": "master", "transport": "local", "python": sys.executable}
        more = workers or {}
        settings = {
            "hosts": [master, *(worker(lab, host, **more.get(host, {})) for host in range(2, hosts + 1))],
            "config": {"poll_s": 0.5, "suspect_s": 12.0, "lease_s": 40.0, "rejoin_s": 2.0, "grace_s": 20.0, **config},
            "arguments": ["--gate", str(self.gate)],
            "project": str(project),
            "preflight": preflight,
        }
        path = self.folder / "settings.json"
        path.write_text(json.dumps(settings))
        self.log = lab.folder / "master.log"
        env = {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path)]), "PYTHONUNBUFFERED": "1"}
        self.process = lab.start(
            1, [sys.executable, str(Path(__file__).with_name("netns_driver.py")), str(path)], self.log, **env
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def wait(self, so: Callable[[], bool], what: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < end, f"{what}\n{self.log.read_text()[-3000:]}"
            assert self.process.poll() is None or so(), f"{what}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def wait_for_gate(self) -> None:
        """Until all ranks wait at the gate with a checkpoint saved."""
        self.wait(lambda: (self.folder / "run/checkpoints/step_0000003").is_dir(), "the first checkpoints")
        self.wait(lambda: bool(self.lab.agents(2)), "an agent on host 2")
        self.wait(lambda: "[host-2 1] rank 1" in self.log.read_text(), "a line of its rank")

    def outcome(self) -> list[str]:
        return [row["kind"] for row in self.events if row["word"] == "outcome"]

    def finish(self) -> str:
        """Open the gate, wait for the end, and return the adapter."""
        self.gate.touch()
        self.process.wait(300)
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        assert not self.lab.agents(2)
        return (self.folder / "run" / "adapter.safetensors").read_text()


def undisturbed() -> str:
    """The stand-in's adapter, computed here."""
    value = ""
    for step in range(6):
        value = hashlib.sha256(f"{value}{step}".encode()).hexdigest()
    return value


def test_three_hosts_with_one_and_two_processes_train_without_a_shared_disk(lab: Laboratory, project: Path) -> None:
    story = Story(lab, project, hosts=3, workers={3: {"processes": 2}})
    assert story.finish() == undisturbed()
    text = story.log.read_text()
    for line in (
        "[master 0] rank 0 of 4",
        "[host-2 1] rank 1 of 4",
        "[host-3 2] rank 2 of 4",
        "[host-3 3] rank 3 of 4",
    ):
        assert line in text
    assert not lab.processes_of(2) and not lab.processes_of(3)


def test_a_killed_rank_and_a_killed_agent_cost_an_attempt_each_and_no_result(lab: Laboratory, project: Path) -> None:
    story = Story(lab, project)
    story.wait_for_gate()
    ranks = [pid for pid in lab.processes_of(2) if "stand_in" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(ranks[0], signal.SIGKILL)
    story.wait(lambda: story.outcome() == ["failed"], "the killed rank is seen")
    story.wait(lambda: len(lab.agents(2)) == 1, "another agent")
    os.kill(lab.agents(2)[0], signal.SIGKILL)
    story.wait(lambda: story.outcome() == ["failed", "failed"], "the killed agent is seen")
    assert story.finish() == undisturbed()
    assert story.outcome() == ["failed", "failed", "finished"]


def test_a_link_cut_within_the_suspect_window_restarts_nothing(lab: Laboratory, project: Path) -> None:
    story = Story(lab, project, suspect_s=60.0, lease_s=90.0)
    story.wait_for_gate()
    lab.cut(2)
    time.sleep(12)  # longer than the keepalives of SSH: the connection itself is lost
    lab.join(2)
    assert story.finish() == undisturbed()
    assert story.outcome() == ["finished"], story.log.read_text()[-3000:]


def test_a_link_cut_beyond_the_window_leaves_the_node_out_and_takes_it_in_again(lab: Laboratory, project: Path) -> None:
    story = Story(lab, project, min_nodes=1, suspect_s=12.0, lease_s=30.0)
    story.wait_for_gate()
    orphan = lab.agents(2)
    lab.cut(2)
    story.wait(lambda: story.outcome() == ["lost"], "the cut is seen")
    story.wait(lambda: not set(orphan) & set(lab.agents(2)), "the orphan ends with its lease")
    assert not lab.processes_of(2)
    lab.join(2)
    story.wait(lambda: story.outcome() == ["lost", "back"], "the node is taken in")
    assert story.finish() == undisturbed()
    assert [row["world_size"] for row in story.events if row["word"] == "start"] == [2, 1, 2]


def test_a_firewall_that_lets_only_the_runs_ports_in_is_named(lab: Laboratory, project: Path) -> None:
    """gloo listens on any port: with the five ports open alone a run hangs, and nothing says why."""
    if shutil.which("nft") is None:
        pytest.skip("needs nft")
    lab.firewall(1, "tcp dport { 22, 29500-29504 } accept")
    story = Story(lab, project, preflight=True)
    story.process.wait(200)
    (row,) = [row for row in story.events if row["word"] == "preflight"]
    (finding,) = row["findings"]
    assert finding.startswith("host-2: cannot open a connection to master on port")
    assert "no answer: a firewall drops it" in finding and "gloo and NCCL use any port" in finding


def test_a_clock_that_is_wrong_is_refused(lab: Laboratory, project: Path) -> None:
    wrong = lab.folder / "wrong"
    wrong.mkdir()
    (wrong / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 20\n")
    python = lab.folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={wrong} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    story = Story(lab, project, preflight=True, workers={2: {"python": str(python)}})
    story.process.wait(200)
    (row,) = [row for row in story.events if row["word"] == "preflight"]
    assert any("host-2: the clock is" in text and "behind" in text for text in row["findings"])


def test_an_unknown_host_key_and_a_refused_login_are_said_plainly(lab: Laboratory, project: Path) -> None:
    (lab.folder / "nobody").write_text("")
    story = Story(lab, project, preflight=True, workers={2: {"known_hosts": str(lab.folder / "nobody")}})
    story.process.wait(200)
    assert "the host key of 10.77.0.2 is not known" in story.log.read_text()
    other = Story(lab, project, preflight=True, workers={2: {"user": "daemon"}})
    other.process.wait(200)
    assert "10.77.0.2 refuses the login" in other.log.read_text()
