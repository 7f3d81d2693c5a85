"""`loraloom cluster launch` with the real trainer on hosts of network namespaces: from deployment to the final adapter."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.prepare.run import prepare
from loraloom.train.checkpoint import CheckpointFolder, damage
from tests.support.netns_lab import Laboratory, laboratory, missing
from tests.support.ranks import FAULTY

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    pytest.importorskip("asyncssh")
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without the weights of its built-in base."""
    folder = tmp_path_factory.mktemp("project")
    source = ROOT / "src" / "loraloom"
    for path in source.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20 and "__pycache__" not in path.parts:
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    """A prepared dataset of four small images."""
    folder = tmp_path_factory.mktemp("images")
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
    prepare(draw_folder(folder / "raw", 4), folder / "dataset", settings, console=lambda text: None)
    return folder / "dataset"


@dataclass
class Training:
    """A launch of the real trainer from host 1 on hosts 1 and 2.

    Attributes:
        lab: The hosts.
        process: The master's command.
        log: What it said.
        gate: The file that lets a rank with the fault `hold` pass.
    """

    lab: Laboratory
    process: "subprocess.Popen[bytes]"
    log: Path
    gate: Path

    @property
    def run(self) -> Path:
        return self.lab.home(1) / "runs" / "style"

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait(self, so: Callable[[], bool], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < end, f"{what}\n{self.text[-4000:]}"
            assert self.process.poll() is None, f"{what}\n{self.text[-4000:]}"
            time.sleep(0.1)

    def finish(self) -> None:
        assert self.process.wait(150) == 0, self.text[-4000:]


@contextmanager
def launched(folder: Path, project: Path, model: Path, images: Path, fault: str = "") -> Iterator[Training]:
    """Six steps with a checkpoint and samples after the third and the last, `FAULT:RANK:STEP` injected on host 2."""
    with laboratory(folder, 2) as lab:
        python = lab.folder / "python"
        python.write_text(
            f"#!/bin/sh\nexport OMP_NUM_THREADS=1 PYTHONPATH={FAULTY}\n"
            f"export TEST_FAULT={fault or 'none:9:9'} TEST_GATE={lab.folder}/gate\n"
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        worker = {
            "IPAddress": lab.address(2),
            "ComputerName": "host-2",
            "User": "root",
            "KeyFile": str(lab.key),
            "KnownHosts": str(lab.known_hosts),
            "Python": str(python),
        }
        (lab.folder / "workers.json").write_text(json.dumps([worker]), "utf-8")
        tree: dict[str, Any] = {
            "model": {"source": str(model)},
            "data": {"dataset": str(images), "batch_size": 1},
            "train": {"output": str(lab.home(1) / "runs" / "style"), "max_steps": 6, "log_every": 1},
            "checkpoints": {"every": 3},
            "samples": {"steps": 1, "prompts": ["first", "second"]},
            "optim": {"learning_rate": 1e-3},
            "export": {"verify": False},
        }
        (lab.folder / "run.yaml").write_text(to_yaml(RunConfig.model_validate(tree)), "utf-8")
        line = [
            sys.executable,
            "-m",
            "loraloom",
            "cluster",
            "launch",
            "--cpu",
            "--config",
            str(lab.folder / "run.yaml"),
        ]
        line += ["--workers-file", str(lab.folder / "workers.json"), "--project-path", str(project), "--poll", "0.5"]
        env = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        log = lab.folder / "launch.log"
        yield Training(lab, lab.start(1, line, log, **env), log, lab.folder / "gate")


@dataclass(frozen=True)
class Done:
    """What an undisturbed run left: the launch's text, the adapter's weights, and the files of the run folder."""

    text: str
    adapter: dict[str, torch.Tensor]
    files: frozenset[str]
    left: tuple[int, ...]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, project: Path, tiny_model: Path, images: Path) -> Done:
    with launched(tmp_path_factory.mktemp("calm"), project, tiny_model, images) as training:
        training.finish()
        files = frozenset(path.relative_to(training.run).as_posix() for path in training.run.rglob("*"))
        for step in (3, 6):
            assert damage(CheckpointFolder(training.run / "checkpoints").path(step)) is None
        adapter = load_file(training.run / "adapter.safetensors")
        left = tuple(training.lab.agents(2))
        return Done(training.text, adapter, files, left)


def test_launch_deploys_trains_on_two_hosts_samples_on_both_and_brings_the_adapter_home(undisturbed: Done) -> None:
    text = undisturbed.text
    assert "[host-2] release-" in text and "[host-2] data/dataset-" in text
    assert "2 processes on master (1), host-2 (1), from the beginning" in text
    assert "batch: 1 per device x 1 accumulation x 2 ranks = 2 images a step" in text
    assert "[master 0] step 6/6" in text
    for step in ("step_0000003", "step_0000006"):
        for rank in (0, 1):  # two hosts without a shared disk: rank 1's image travelled
            assert f"samples/{step}/gpu_{rank}_sample.png" in undisturbed.files
    assert "samples/sheet.png" in undisturbed.files
    assert not undisturbed.left


def test_a_rank_killed_in_the_middle_leaves_the_adapter_of_the_undisturbed_run(
    undisturbed: Done, tmp_path: Path, project: Path, tiny_model: Path, images: Path
) -> None:
    with launched(tmp_path, project, tiny_model, images, fault="hold:1:4") as training:
        held = tmp_path / "gate.held"
        training.wait(held.exists, "rank 1 is held before its fifth step")
        training.wait(lambda: (training.run / "checkpoints" / "step_0000003").is_dir(), "a checkpoint")
        training.gate.touch()
        os.kill(int(held.read_text()), signal.SIGKILL)
        training.finish()
        assert "rank 1 was killed by SIGKILL; the gang is restarted from step_0000003" in training.text
        adapter = load_file(training.run / "adapter.safetensors")
        assert adapter.keys() == undisturbed.adapter.keys()
        assert all(torch.equal(adapter[key], value) for key, value in undisturbed.adapter.items())
        assert not training.lab.agents(2)
