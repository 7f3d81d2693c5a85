"""The supervisor with real ranks of `loraloom train` on two nodes of this machine: faults that only exchanges can have."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loraloom.cluster.agent import attempts
from loraloom.cluster.supervisor import Supervisor
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.prepare.run import prepare
from loraloom.utils.errors import UserError
from tests.support.ranks import FAULTY

from .conftest import Lab, run_async

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    """A prepared dataset of four small images."""
    folder = tmp_path_factory.mktemp("images")
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
    prepare(draw_folder(folder / "raw", 4), folder / "dataset", settings, console=lambda text: None)
    return folder / "dataset"


@pytest.fixture
def training(lab: Lab, tmp_path: Path, tiny_model: Path, images: Path) -> Callable[..., Supervisor]:
    """`training("run", "fault", stall_s=…)`: a supervised training of six steps on ada and bob."""

    def make(run: str, fault: str, **config: Any) -> Supervisor:
        tree: dict[str, Any] = {
            "model": {"source": str(tiny_model)},
            "data": {"batch_size": 1},
            "train": {"max_steps": 6, "log_every": 1},
            "checkpoints": {"every": 3},
            "samples": {"enabled": False},
            "optim": {"learning_rate": 1e-3},
            "export": {"verify": False},
        }
        paths = [str(FAULTY), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            "PYTHONPATH": os.pathsep.join(paths),
            "TEST_FAULT": fault,
            "TEST_GATE": str(tmp_path / "gate"),
            "OMP_NUM_THREADS": "1",
        }
        supervisor = lab.supervisor(run, tmp_path / "home", **{"suspect_s": 40.0, "lease_s": 60.0, **config})
        settings = to_yaml(RunConfig.model_validate(tree))
        program = ("-m", "loraloom", "train")
        supervisor.run = replace(supervisor.run, settings=settings, arguments=("--cpu",), program=program, env=env)
        supervisor.members = [replace(member, dataset=str(images)) for member in supervisor.members]
        return supervisor

    return make


def test_a_rank_that_hangs_while_the_others_wait_in_the_exchange_is_named_and_the_run_finishes(
    lab: Lab, tmp_path: Path, training: Callable[..., Supervisor]
) -> None:
    async def story() -> None:
        work = asyncio.create_task(training("held", "hold:1:4", stall_s=60.0).supervise())
        while not (tmp_path / "gate.held").exists():
            assert not work.done()
            await asyncio.sleep(0.1)
        (tmp_path / "gate").touch()  # for the second attempt
        assert (await work).kind == "finished"

    run_async(story())
    # On a busy machine the start of an attempt may take longer than --stall: then that is one stall more.
    assert set(lab.outcomes()) == {"stalled", "finished"}
    words = "rank 1 of bob hangs after step 4 and the others wait; the gang is restarted from step_0000003"
    assert [line for line in lab.said if "no progress" in line and words in line], lab.said
    stacks = [one.log(1).read_text() for one in attempts(Path(lab.hosts[1].root), "held") if one.log(1).is_file()]
    assert any("in train_step" in stack for stack in stacks), "the stack of the rank that hangs"


@pytest.mark.parametrize("fault", ["silent", "separate"])
def test_a_gang_that_does_not_exchange_gradients_is_stopped_by_the_name_of_the_node(
    lab: Lab, training: Callable[..., Supervisor], fault: str
) -> None:
    """`silent`: one group, but no exchange of gradients. `separate`: a group each, whose ranks learn the same."""
    with pytest.raises(UserError) as refused:
        run_async(training(fault, f"{fault}:0:0,{fault}:1:0").supervise())
    words = {
        "silent": (
            "bob (rank 1) holds other weights than the rest after step 3",
            "the ranks no longer hold the same weights after step 3: rank 1 (on bob) differs from rank 0",
        ),
        # Both are alone; the one whose heartbeat is read first is named, or both.
        "separate": tuple(
            f"{name} joined a process group of 1 in place of 2" for name in ("ada (rank 0)", "bob (rank 1)")
        ),
    }
    assert any(text in str(refused.value) for text in words[fault]), str(refused.value)
    assert "finished" not in lab.outcomes()
