"""`run-all`: every job on some machine, a lost machine loses none, a machine may join."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loraloom.cluster.hosts import Host
from loraloom.cluster.job_queue import run_jobs
from loraloom.cluster.launching import Cluster, Job
from loraloom.cluster.links import Link
from loraloom.cluster.plan import RunPlan
from loraloom.config.cluster import ClusterConfig
from loraloom.config.run import RunConfig
from loraloom.utils.errors import UserError

from .conftest import STAND_IN, Lab, run_async

pytestmark = pytest.mark.slow

Soon = Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]
CONFIG = ClusterConfig(poll_s=0.1, suspect_s=1.0, lease_s=10.0, rejoin_s=1.0, min_free_gib=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("{}\n")
    return folder


def job(tmp_path: Path, data: Path, name: str) -> Job:
    settings = RunConfig.model_validate({"data": {"dataset": str(data)}, "train": {"output": str(tmp_path / name)}})
    return Job(settings=settings, arguments=(), home=tmp_path / name)


def cluster(lab: Lab, hosts: list[Host]) -> Cluster:
    return Cluster(
        hosts=tuple(hosts),
        links={host.name: Link(host, lab.fake.connect) for host in hosts},
        release=lab.release,
        master_address="127.0.0.1",
        home_root=Path(lab.hosts[0].root) / "sums-of-the-master",
    )


def planner(*arguments: str) -> Callable[[Job, ClusterConfig, str | None], RunPlan]:
    def plan(job: Job, config: ClusterConfig, model: str | None) -> RunPlan:
        return RunPlan(
            name=job.name,
            settings="",
            arguments=arguments,
            port=config.port,
            lease_s=config.lease_s,
            grace_s=5.0,
            env={},
            program=(str(STAND_IN),),
        )

    return plan


def test_jobs_are_given_to_free_machines_and_their_results_come_home(lab: Lab, tmp_path: Path, data: Path) -> None:
    jobs = [job(tmp_path, data, name) for name in ("one", "two", "three")]
    results = run_async(run_jobs(cluster(lab, lab.hosts), jobs, CONFIG, lab.said.append, plan=planner()))
    assert results.complete
    assert len({(one.home / "adapter.safetensors").read_text() for one in jobs}) == 1
    assert {state.node for state in results.jobs} <= {"ada", "bob"}


def test_a_lost_machine_gives_its_job_back_with_the_newest_checkpoint(
    lab: Lab, tmp_path: Path, data: Path, soon: Soon
) -> None:
    gate, only = tmp_path / "gate", job(tmp_path, data, "run")

    async def story() -> list[str]:
        bob_later = cluster(lab, [lab.hosts[0]])
        work = asyncio.create_task(
            run_jobs(
                bob_later,
                [only],
                CONFIG,
                lab.said.append,
                plan=planner("--gate", str(gate)),
                read_again=lambda: [replace(lab.hosts[1])],
            )
        )
        await soon(lambda: (only.home / "checkpoints/step_0000003").is_dir())
        lab.fake.cut.add("ada")
        await soon(lambda: any("goes back to the queue" in line for line in lab.said))
        gate.touch()
        return [state.node for state in (await work).jobs]

    assert run_async(story()) == ["bob"]
    assert "[bob] joins" in lab.said
    assert "[bob 0] rank 0 of 1 from step 3" in lab.said
    assert (only.home / "adapter.safetensors").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_a_job_that_always_fails_is_given_up_and_the_others_finish(lab: Lab, tmp_path: Path, data: Path) -> None:
    jobs = [job(tmp_path, data, "good"), job(tmp_path, data, "bad")]
    calm, mistaken = planner(), planner("--die", "0:1:mistake")

    def plan(job: Job, config: ClusterConfig, model: str | None) -> RunPlan:
        return (mistaken if job.home.name == "bad" else calm)(job, config, model)

    results = run_async(run_jobs(cluster(lab, lab.hosts), jobs, CONFIG, lab.said.append, plan=plan))
    assert [state.state for state in results.jobs] == ["finished", "failed"]
    assert "the dataset is not there" in results.jobs[1].text


def test_two_jobs_may_not_share_a_run_folder(lab: Lab, tmp_path: Path, data: Path) -> None:
    twice = [job(tmp_path, data, "run"), job(tmp_path, data, "run")]
    with pytest.raises(UserError, match="two jobs have one run folder"):
        run_async(run_jobs(cluster(lab, lab.hosts), twice, CONFIG, lab.said.append))
