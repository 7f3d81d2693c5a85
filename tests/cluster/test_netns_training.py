"""`loraloom cluster launch` with the real trainer on hosts of network namespaces: from deployment to the final adapter."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from loraloom.utils.locks import lock_folder
from tests.support.netns_lab import Laboratory, laboratory, missing
from tests.support.ranks import FAULTY

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "loraloom", "cluster")
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    pytest.importorskip("asyncssh")
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_package(tmp_path_factory.mktemp("project"))


def copy_package(folder: Path) -> Path:
    """The package without the weights of its built-in base."""
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


def soon(so: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@dataclass
class Training:
    """A launch of the real trainer from host 1.

    Attributes:
        lab: The hosts.
        process: The master's command.
        log: What it said.
        gate: The file that lets a rank with the fault `hold` or `wait` pass.
        options: Flags of every `loraloom cluster` command of it.
    """

    lab: Laboratory
    process: "subprocess.Popen[bytes]"
    log: Path
    gate: Path
    options: list[str]

    @property
    def run(self) -> Path:
        return self.lab.home(1) / "runs" / "style"

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    @property
    def adapter(self) -> Tensors:
        return load_file(self.run / "adapter.safetensors")

    def wait(self, so: Callable[[], bool], what: str) -> None:
        """Wait while the master runs."""

        def checked() -> bool:
            assert self.process.poll() is None or so(), f"{what}\n{self.text[-4000:]}"
            return so()

        soon(checked, what)

    def wait_until_held(self) -> int:
        """Until a rank is held by its fault and the checkpoint of step 3 is here; returns the process id of that rank."""
        held = self.gate.with_name("gate.held")
        self.wait(lambda: held.is_file() and bool(held.read_text()), "a rank is held before its fifth step")
        self.wait((self.run / "checkpoints" / "step_0000003").is_dir, "a checkpoint")
        return int(held.read_text())

    def finish(self) -> None:
        assert self.process.wait(300) == 0, self.text[-4000:]

    def attempts(self) -> list[str]:
        """Numbers of processes, hosts and checkpoint of each attempt, as the master said them."""
        return re.findall(r"^attempt \S+: (.+)$", self.text, re.MULTILINE)


@contextmanager
def launched(
    folder: Path,
    project: Path,
    model: Path,
    images: Path,
    fault: str = "",
    *,
    workers: Sequence[dict[str, Any]] = ({},),
    flags: Sequence[str] = (),
    **changed: dict[str, Any],
) -> Iterator[Training]:
    """Six steps with a checkpoint and samples after the third and the last, `FAULT:RANK:STEP` injected on the workers.

    `workers`: further keys of the records of host 2 and on. `flags` of `cluster launch`. `changed`: groups of settings.
    """
    with laboratory(folder, 1 + len(workers)) as lab:
        python = lab.folder / "python"
        python.write_text(
            f"#!/bin/sh\nexport OMP_NUM_THREADS=1 PYTHONPATH={FAULTY}\n"
            f"export TEST_FAULT={fault or 'none:9:9'} TEST_GATE={lab.folder}/gate\n"
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        records = [
            {
                "IPAddress": lab.address(host),
                "ComputerName": f"host-{host}",
                "User": "root",
                "KeyFile": str(lab.key),
                "KnownHosts": str(lab.known_hosts),
                "Python": str(python),
                **more,
            }
            for host, more in enumerate(workers, 2)
        ]
        (lab.folder / "workers.json").write_text(json.dumps(records), "utf-8")
        tree: dict[str, Any] = {
            "model": {"source": str(model)},
            "data": {"dataset": str(images), "batch_size": 1},
            "train": {"output": str(lab.home(1) / "runs" / "style"), "max_steps": 6, "log_every": 1},
            "checkpoints": {"every": 3},
            "samples": {"steps": 1, "prompts": ["first", "second"]},
            "optim": {"learning_rate": 1e-3},
            "export": {"verify": False},
        }
        tree |= {group: {**tree.get(group, {}), **values} for group, values in changed.items()}
        (lab.folder / "run.yaml").write_text(to_yaml(RunConfig.model_validate(tree)), "utf-8")
        options = ["--workers-file", str(lab.folder / "workers.json"), "--project-path", str(project)]
        line = [*COMMAND, "launch", "--cpu", "--config", str(lab.folder / "run.yaml"), *options, *flags]
        log = lab.folder / "launch.log"
        yield Training(lab, lab.start(1, line, log, **ENVIRONMENT), log, lab.folder / "gate", options)


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def distance(one: Tensors, other: Tensors) -> float:
    """The Euclidean norm of the difference of all weights."""
    assert one.keys() == other.keys()
    return sum(float((one[key].double() - other[key]).square().sum()) for key in one) ** 0.5


@dataclass(frozen=True)
class Done:
    """What an undisturbed run left: the launch's text, the adapter's weights, the files of the run folder, and agents."""

    text: str
    adapter: Tensors
    third: Tensors
    files: frozenset[str]
    left: tuple[int, ...]


Launch = Callable[..., AbstractContextManager[Training]]


@pytest.fixture(scope="module")
def launch(project: Path, tiny_model: Path, images: Path) -> Launch:
    """`launched` with the project, the model and the images of this module."""
    return lambda folder, fault="", **more: launched(folder, project, tiny_model, images, fault, **more)


def complete(training: Training) -> Done:
    training.finish()
    files = frozenset(path.relative_to(training.run).as_posix() for path in training.run.rglob("*"))
    for step in (3, 6):
        assert damage(CheckpointFolder(training.run / "checkpoints").path(step)) is None
    return Done(training.text, training.adapter, third_step(training), files, tuple(training.lab.agents(2)))


def third_step(training: Training) -> Tensors:
    """The weights in the checkpoint of step 3."""
    return load_file(training.run / "checkpoints" / "step_0000003" / "adapter.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> Done:
    """Two ranks, one on each of two hosts."""
    with launch(tmp_path_factory.mktemp("calm")) as training:
        return complete(training)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> Done:
    """Three ranks: one on the master, two on host 2."""
    with launch(tmp_path_factory.mktemp("unequal"), workers=[{"Processes": 2}]) as training:
        return complete(training)


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
    undisturbed: Done, tmp_path: Path, launch: Launch
) -> None:
    with launch(tmp_path, "hold:1:4") as training:
        held = training.wait_until_held()
        training.gate.touch()
        os.kill(held, signal.SIGKILL)
        training.finish()
        assert "rank 1 was killed by SIGKILL; the gang is restarted from step_0000003" in training.text
        assert_equal(training.adapter, undisturbed.adapter)
        assert not training.lab.agents(2)


def test_a_host_that_is_gone_is_left_out_and_the_other_two_keep_the_images_of_a_step(
    unequal: Done, tmp_path: Path, launch: Launch
) -> None:
    """Each host encodes the images in batches of its own, so ranks that are dealt otherwise are equal up to rounding."""
    assert unequal.text.count("3 processes on master (1), host-2 (2), from the beginning") == 1
    assert "batch: 1 per device x 1 accumulation x 3 ranks = 3 images a step" in unequal.text
    flags = ["--min-nodes", "2", "--suspect", "12"]
    with launch(tmp_path, "hold:2:4", workers=[{}, {}], flags=flags) as training:
        training.wait_until_held()
        training.lab.power_off(3)
        training.finish()
        text = training.text
        first, *_, last = training.attempts()
        assert first == "3 processes on master (1), host-2 (1), host-3 (1), from the beginning"
        assert last == "2 processes on master (1), host-2 (1), from step_0000003"
        assert re.search(r"host-3: does not answer for .*; the gang is restarted from step_0000003", text)
        assert "note: 2 processes in place of 3: an optimizer step keeps its number of images" in text
        assert "started on 3 ranks and is now on 2: a step keeps its 3 images, in up to 2 micro-batches" in text
        way = distance(unequal.third, unequal.adapter)
        assert distance(third_step(training), unequal.third) < way / 1000, "three ranks on two or three hosts"
        assert distance(training.adapter, unequal.adapter) < way / 1000, "then two ranks with the same images"


def test_a_link_cut_within_the_suspect_window_restarts_nothing(
    undisturbed: Done, tmp_path: Path, launch: Launch
) -> None:
    with launch(tmp_path, "wait:1:4", flags=["--suspect", "90", "--lease", "120"]) as training:
        training.wait_until_held()
        training.lab.cut(2)
        training.gate.touch()  # rank 1 sends its gradients while the link is cut
        time.sleep(10)  # longer than the keepalives of SSH: the connection itself is lost
        training.lab.join(2)
        training.finish()
        assert training.attempts() == ["2 processes on master (1), host-2 (1), from the beginning"], training.text
        assert_equal(training.adapter, undisturbed.adapter)


def test_a_link_cut_beyond_the_suspect_window_restarts_all_once_it_is_back(
    undisturbed: Done, tmp_path: Path, launch: Launch
) -> None:
    with launch(tmp_path, "hold:1:4", flags=["--suspect", "12", "--lease", "30"]) as training:
        training.wait_until_held()
        training.lab.cut(2)
        training.wait(lambda: "waiting for host-2 (" in training.text, "the cut is seen, and all nodes are required")
        training.gate.touch()  # for the next attempt
        training.lab.join(2)
        training.finish()
        assert re.search(r"host-2: does not answer for .*; the gang is restarted from step_0000003", training.text)
        assert training.attempts()[-1] == "2 processes on master (1), host-2 (1), from step_0000003"
        assert_equal(training.adapter, undisturbed.adapter)


def test_stop_saves_and_leaves_no_process_no_port_and_no_lock(tmp_path: Path, launch: Launch) -> None:
    train, checkpoints = {"max_steps": 100_000}, {"every": 20}
    with launch(tmp_path, train=train, checkpoints=checkpoints, samples={"enabled": False}) as training:
        lab, folder = training.lab, training.run / "checkpoints"
        training.wait(lambda: any(folder.glob("step_*")), "a checkpoint")
        stop = lab.run(1, [*COMMAND, "stop", *training.options], **ENVIRONMENT)
        assert stop.returncode == 0, stop.stdout + stop.stderr
        training.finish()
        assert "the same command resumes" in training.text.splitlines()[-1]
        assert len(training.attempts()) == 1, "what was stopped is not restarted"
        for host in (1, 2):
            soon(lambda host=host: not lab.processes_of(host), "a last question to a node agent has ended")
            assert lab.ports(host) == {22}
        saved = CheckpointFolder(folder)
        assert saved.steps() and all(damage(saved.path(step)) is None for step in saved.steps())
        logged = [int(step) for step in re.findall(r"step (\d+)/100000", training.text)]
        assert max(saved.steps()) >= max(logged), "the last finished step is saved"
        with lock_folder(training.run, print):
            assert not [path for path in training.run.rglob("*") if "tmp" in path.name or "fetched" in path.name]


def test_a_differing_data_file_of_a_host_is_named_before_anything_starts(
    tmp_path: Path, images: Path, launch: Launch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    changed = min(own.rglob("*.png"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with launch(tmp_path, workers=[{"Dataset": str(own)}]) as training:
        assert training.process.wait(300) == 2, training.text
        name = changed.relative_to(own).as_posix()
        assert f"error: [host-2] the data differ from this machine's: {name} differs" in training.text
        assert "1 of 2 nodes cannot train: got 'host-2'" in training.text
        assert "Traceback" not in training.text and not training.attempts()
