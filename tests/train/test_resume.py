"""`kill -9` at any moment, then the same command again: bit-identical to an uninterrupted run."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from loraloom.config.run import RunConfig
from loraloom.lora.files import find_adapter
from loraloom.train.checkpoint import CheckpointFolder, damage, load_checkpoint
from loraloom.train.run import train
from loraloom.utils.errors import UserError

from .conftest import Configure, first_colour


def child(config_json: str, folder: str) -> None:
    """What a killed process runs: `train` in a folder of its own, output relative to it."""
    os.chdir(folder)
    train(RunConfig.model_validate_json(config_json), say=lambda text: None)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Real processes that start with the libraries already imported (`tests/conftest.py`)."""
    return multiprocessing.get_context("forkserver")


def saving(folder: Path) -> bool:
    return any((folder / "run" / "checkpoints").glob(".step_*.tmp"))


def started(folder: Path) -> bool:
    return (folder / "run" / "events.jsonl").is_file()


def wait_for(condition: Callable[[], bool], process: multiprocessing.process.BaseProcess, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("times", [3, pytest.param(11, marks=pytest.mark.long)])
def test_a_run_killed_many_times_ends_bit_identical(
    times: int, configure: Configure, dataset: Path, tmp_path: Path, processes: ForkServerContext
) -> None:
    """Killed in turns while it learns and while it saves."""
    config = configure(
        train={"output": "run", "max_steps": 40, "validation_every": 10},
        checkpoints={"every": 2, "keep": 2},
        lora={"dropout": 0.1, "ema_decay": 0.9},
        optim={"scheduler": "cosine", "warmup_steps": 5},
        objective={"balance_noise": True, "class_weights": [f"{first_colour(dataset)}=5"]},
        data={"random_flip": True},
    ).model_dump_json()
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    reference = processes.Process(target=child, args=(config, str(tmp_path / "whole")))
    reference.start()
    reference.join(120)
    assert reference.exitcode == 0
    folder, rng, kills, in_save, steps = tmp_path / "killed", random.Random(4), 0, 0, []
    while True:
        process = processes.Process(target=child, args=(config, str(folder)))
        process.start()
        if kills < times:
            before = CheckpointFolder(folder / "run" / "checkpoints").steps()[-1:]
            wait_for(lambda: started(folder), process)
            if kills % 2:
                wait_for(lambda: saving(folder), process)
                in_save += saving(folder)
            else:
                # Somewhere in the next steps, after at least one checkpoint more, so that the run gets on.
                wait_for(lambda b=before: CheckpointFolder(folder / "run" / "checkpoints").steps()[-1:] != b, process)
                time.sleep(rng.uniform(0, 0.12))
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        process.join(120)
        whole = CheckpointFolder(folder / "run" / "checkpoints").steps()
        steps.append(whole[-1] if whole else 0)
        for step in whole:
            assert damage(CheckpointFolder(folder / "run" / "checkpoints").path(step)) is None
        if process.exitcode == 0:
            break
    assert kills >= times - 1, steps
    assert in_save >= times // 5, "no kill fell into a save"
    assert sorted(steps) == steps, "a checkpoint was lost"
    name = "run/adapter.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stop_signal_finishes_the_step_saves_and_goes_on_identically(
    configure: Configure, tmp_path: Path, processes: ForkServerContext
) -> None:
    config = configure(train={"output": "run", "max_steps": 60}, checkpoints={"every": 0})
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    for number in (signal.SIGTERM, signal.SIGINT):
        process = processes.Process(target=child, args=(config.model_dump_json(), str(tmp_path / "stopped")))
        process.start()
        events = tmp_path / "stopped" / "run" / "events.jsonl"
        had = events.read_text().count("train") if events.is_file() else 0
        wait_for(lambda e=events, h=had: e.is_file() and e.read_text().count('"train"') > h, process)
        os.kill(process.pid or 0, number)
        process.join(60)
        assert process.exitcode == 0
        steps = CheckpointFolder(tmp_path / "stopped" / "run" / "checkpoints").steps()
        assert steps
        assert 0 < steps[-1] < 60
    for name in ("whole", "stopped"):
        process = processes.Process(target=child, args=(config.model_dump_json(), str(tmp_path / name)))
        process.start()
        process.join(120)
        assert process.exitcode == 0
    adapters = [(tmp_path / name / "run" / "adapter.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert adapters[0] == adapters[1]


def test_a_run_whose_time_is_over_is_saved_and_goes_on(configure: Configure) -> None:
    config = configure(checkpoints={"every": 0})
    before = signal.getsignal(signal.SIGTERM)
    first = train(config, say=lambda t: None, deadline=0.0)
    assert (first.finished.step, first.adapter) == (0, None)  # it was over before the caches were filled
    second = train(config, say=lambda t: None, deadline=time.monotonic() + 3600)
    assert (second.finished.step, second.finished.stopped) == (6, "")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(configure: Configure, tmp_path: Path) -> None:
    train(configure(), say=lambda t: None)
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps() == [3, 6]
    with (checkpoints.path(6) / "state.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"oops")
    said: list[str] = []
    train(configure(), say=said.append)
    assert any("step_0000006 is damaged (state.safetensors has another sha256)" in line for line in said)
    assert "resuming from step 3" in said
    assert damage(checkpoints.path(6)) is None


def test_the_newest_and_the_best_are_kept(configure: Configure, tmp_path: Path) -> None:
    config = configure(
        train={"max_steps": 8, "validation_every": 1},
        checkpoints={"every": 1, "keep": 2},
        optim={"learning_rate": 20.0},
    )
    with pytest.raises(
        UserError, match=r"(?s)absurdly strong after 8 steps.*lowest validation loss at step (\d)"
    ) as ended:
        train(config, say=lambda t: None)
    best = int(str(ended.value).rpartition("at step ")[2])
    assert best < 6, "a learning rate of 20 should have made it worse"
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").steps() == [best, 7, 8]


def test_a_changed_setting_that_matters_is_refused_and_one_that_does_not_is_taken(configure: Configure) -> None:
    train(configure(), say=lambda t: None)
    with pytest.raises(UserError, match=r"lora\.rank"):
        train(configure(lora={"rank": 4}), say=lambda t: None)
    train(configure(train={"max_steps": 8, "log_every": 1}), say=lambda t: None)


def test_a_changed_dataset_is_refused(configure: Configure, dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    train(configure(data={"dataset": str(copy)}), say=lambda t: None)
    rows = (copy / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / "manifest.jsonl").write_text("".join(rows[:-1]), encoding="utf-8")
    with pytest.raises(UserError, match="its dataset has changed"):
        train(configure(data={"dataset": str(copy)}), say=lambda t: None)


@pytest.mark.root
def test_a_full_disk_leaves_the_previous_checkpoint_whole_and_says_so(configure: Configure, tmp_path: Path) -> None:
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        said: list[str] = []
        config = configure(train={"output": str(small / "run")}, checkpoints={"every": 1, "keep": 9}, lora={"rank": 32})
        with pytest.raises(UserError, match=r"could not be saved \(No space left on device\).*"):
            train(config, say=said.append)
        checkpoints = CheckpointFolder(small / "run" / "checkpoints")
        assert checkpoints.steps()
        assert all(damage(checkpoints.path(step)) is None for step in checkpoints.steps())
        assert not list((small / "run" / "checkpoints").glob(".*"))
        assert any("training continues" in line for line in said)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_checkpoint_of_another_version_is_refused_in_one_line(configure: Configure, tmp_path: Path) -> None:
    """Its files have the right sums, so that it is not damaged; what it holds cannot be read."""
    train(configure(), say=lambda t: None)
    manifest = CheckpointFolder(tmp_path / "run" / "checkpoints").path(6) / "manifest.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    del record["layout"]  # as the first version wrote it
    manifest.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"step_0000006 was written by another version.*got 1, expected layout 2"
    ) as refused:
        train(configure(train={"max_steps": 8}), say=lambda t: None)
    assert "another --out" in str(refused.value)


def test_a_checkpoint_keeps_every_component_and_a_missing_one_is_refused(configure: Configure, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora": {"ema_decay": 0.9}, "objective": {"balance_noise": True}}
    train(configure(**settings), say=lambda t: None)
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints").path(6)
    checkpoint = load_checkpoint(folder)
    assert set(checkpoint.components) == {
        *(
            "identity",
            "adapter",
            "optimizer",
            "loss_scale",
            "bucket_sampler",
            "ema",
            "noise_balance",
            "best_loss",
            "counts",
        )
    }
    assert checkpoint.components["best_loss"]["step"] in {3, 6}
    assert checkpoint.components["counts"]["largest_norm"] > 0
    components = {name: state for name, state in checkpoint.components.items() if name != "noise_balance"}
    CheckpointFolder(folder.parent).save(replace(checkpoint, step=7, components=components), {})
    with pytest.raises(UserError, match=r"other components than this run.*noise_balance"):
        train(configure(**settings, train={"max_steps": 8}), say=lambda t: None)


def test_a_run_resumes_from_its_rolling_checkpoint_and_the_next_numbered_one_replaces_it(
    configure: Configure, tmp_path: Path
) -> None:
    class PowerCutError(Exception):
        pass

    def cut(done: int, numbers: dict[str, float]) -> None:
        if done == 6:
            raise PowerCutError

    def settings(name: str) -> RunConfig:
        return configure(
            train={"output": str(tmp_path / name), "max_steps": 7, "log_every": 1},
            checkpoints={"every": 3, "latest_every": 1},
        )

    train(settings("whole"), say=lambda t: None)
    with pytest.raises(PowerCutError):
        train(settings("cut"), say=lambda t: None, report=cut)
    folder = CheckpointFolder(tmp_path / "cut" / "checkpoints")
    assert sorted(path.name for path in folder.folder.iterdir()) == ["latest_0000005", "step_0000003"]
    assert find_adapter(tmp_path / "cut") == folder.path(5) / "adapter.safetensors"
    said: list[str] = []
    train(settings("cut"), say=said.append)
    assert "resuming from step 5" in said
    assert sorted(path.name for path in folder.folder.iterdir()) == ["step_0000003", "step_0000006", "step_0000007"]
    adapters = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("whole", "cut")]
    assert load(adapters[0]).keys() == load(adapters[1]).keys()
    assert all(torch.equal(value, load(adapters[1])[key]) for key, value in load(adapters[0]).items())
