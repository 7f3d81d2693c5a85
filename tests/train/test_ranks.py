"""`train --num-processes`: one command, several ranks; what each fault at each rank does to the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.train.checkpoint import CheckpointFolder, damage
from loraloom.train.run import train
from tests.support.ranks import train_on_ranks

from .conftest import Configure

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def quiet(line: str) -> None:
    pass


def written(config: RunConfig, path: Path) -> Path:
    path.write_text(to_yaml(config), encoding="utf-8")
    return path


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for line in lines if (row := json.loads(line))["kind"] == kind]


def test_a_run_goes_from_two_ranks_to_one_and_back_and_learns_the_same_images(
    configure: Configure, tmp_path: Path
) -> None:
    """2 -> 1 -> 2 ranks ends where two ranks end that were never stopped, up to rounding; two at once are bit-equal."""

    def settings(name: str, steps: int) -> Path:
        config = configure(train={"output": str(tmp_path / name), "max_steps": steps}, checkpoints={"every": 0})
        return written(config, tmp_path / f"{name}{steps}.yaml")

    for name, parts in {"through": (6,), "again": (6,), "changed": (2, 4, 6)}.items():
        for number, steps in enumerate(parts):
            ran = train_on_ranks(settings(name, steps), 1 if number == 1 else 2)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "batch: 2 per device x 1 accumulation x 2 ranks = 4 images a step" in ran.stdout
            if number == 1:
                assert "started on 2 ranks and is now on 1: a step keeps its 4 images, in up to 2 micro-b" in ran.stdout
    through, again, changed = (load_file(tmp_path / n / "adapter.safetensors") for n in ("through", "again", "changed"))
    assert all(torch.equal(through[key], again[key]) for key in through)
    for key, value in through.items():
        torch.testing.assert_close(changed[key], value, atol=2e-5, rtol=0)


def test_a_killed_rank_ends_all_with_one_message_and_the_newest_checkpoint_whole(
    configure: Configure, tmp_path: Path
) -> None:
    config = written(configure(train={"validation_every": 0}), tmp_path / "run.yaml")
    ran = train_on_ranks(config, 2, fault="die:1:4")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith(("error", "[1] error"))]
    assert len(said) == 1, ran.stderr
    assert "rank 1 of 2 (process " in said[0]
    assert "was killed by SIGKILL" in said[0]
    assert "the checkpoint step_0000003 is whole; the same command resumes from it" in ran.stderr
    assert damage(CheckpointFolder(tmp_path / "run" / "checkpoints").path(3)) is None
    log = (tmp_path / "run" / "logs" / "ranks.log").read_text(encoding="utf-8")
    assert "[0] batch: 2 per device" in log


def test_ranks_whose_weights_differ_stop_by_name_before_they_are_saved(configure: Configure, tmp_path: Path) -> None:
    """One bit that flips in one rank's memory would spoil every later step of all of them, and nobody would see it."""
    config = written(configure(train={"compare_every": 1}, checkpoints={"every": 3}), tmp_path / "run.yaml")
    ran = train_on_ranks(config, 2, fault="drift:1:5")
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert ran.stderr.count("error: ") == 1, "every rank raises it, one says it"
    assert "no longer hold the same weights after step 5: rank 1 (on " in ran.stderr
    assert "the checkpoint of step 3 is whole" in ran.stderr
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").steps() == [3]


def test_each_fault_of_samples_at_each_rank_is_reported_by_name_and_training_continues(
    configure: Configure, tmp_path: Path
) -> None:
    samples = {"enabled": True, "steps": 2, "prompts": ["a", "b", "c"]}
    kinds = ["raise", "memory", "slow", "late", "tight"]
    faults = [f"sample-{kind}:{rank}:{2 * k + rank}" for k, kind in enumerate(kinds) for rank in (0, 1)]
    config = configure(
        train={"max_steps": 10, "validation_every": 0}, checkpoints={"every": 0, "latest_every": 1}, samples=samples
    )
    ran = train_on_ranks(written(config, tmp_path / "run.yaml"), 2, fault=",".join(faults))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = tmp_path / "run"
    for step in range(10):
        (line,) = [one for one in ran.stdout.splitlines() if f"samples at step {step}:" in one] or [""]
        kind, rank = kinds[step // 2], step % 2
        if kind == "slow":
            assert line == "", "within its deadline"
            continue
        assert line.startswith(f"warning: samples at step {step}: rank {rank}: "), ran.stdout
        words = {"raise": "RuntimeError: a fault of the test", "memory": "out of memory: CUDA out of memory",
                 "tight": f"out of memory at 64x64: {2 - rank} of {2 - rank} images have half these sides",
                 "late": "broken off after 600 s (samples.deadline_s) with 0 of"}[kind]  # fmt: skip
        assert words in line
        other = folder / "samples" / f"step_{step:07d}" / f"gpu_{1 - rank}_sample.png"
        assert other.is_file(), "the other rank has its images"
    with Image.open(folder / "samples" / "step_0000008" / "gpu_0_sample.png") as image:
        assert image.size == (32, 32)
    assert "contact sheet was not written" not in ran.stdout
    assert sorted(path.name for path in (folder / "samples" / "step_0000010").iterdir()) == [
        "gpu_0_prompt.txt", "gpu_0_prompt_2.txt", "gpu_0_sample.png", "gpu_0_sample_2.png", "gpu_1_prompt.txt",
        "gpu_1_sample.png",
    ]  # fmt: skip
    assert [len(row["rank_seconds"]) for row in rows(folder, "samples")] == [2] * 11
    assert CheckpointFolder(folder / "checkpoints").path(10).name == "step_0000010"
    assert len(list((folder / "checkpoints").iterdir())) == 1, "the rolling one goes when a numbered one is newer"


def test_a_rank_that_samples_for_five_seconds_longer_does_not_delay_the_samples_of_the_others(
    configure: Configure, tmp_path: Path
) -> None:
    """No collective runs within the samples: the others have theirs at once, and meet that rank at the next exchange."""
    samples = {"enabled": True, "steps": 2, "prompts": ["a", "b"]}
    for name, fault in {"even": "", "late": "sample-watch:0:2,sample-pause:1:2"}.items():
        config = configure(
            train={"output": str(tmp_path / name), "max_steps": 3, "validation_every": 0},
            checkpoints={"every": 2},
            samples=samples,
        )
        ran = train_on_ranks(written(config, tmp_path / f"{name}.yaml"), 2, fault=fault)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "warning: samples" not in ran.stdout, "no collective was refused"
    (row,) = [row for row in rows(tmp_path / "late", "samples") if row["step"] == 2]
    assert row["rank_seconds"][1] - row["rank_seconds"][0] > 3
    images = [tmp_path / "late" / "samples" / "step_0000002" / f"gpu_{rank}_sample.png" for rank in (0, 1)]
    assert images[1].stat().st_mtime - images[0].stat().st_mtime > 3
    even, late = (load_file(tmp_path / name / "adapter.safetensors") for name in ("even", "late"))
    assert all(torch.equal(even[key], late[key]) for key in even)


@pytest.mark.parametrize("kind", ["die", "stuck"])
def test_a_rank_that_ends_in_samples_ends_all_and_is_left_out_after_the_second_time(
    kind: str, configure: Configure, tmp_path: Path
) -> None:
    samples = {"enabled": True, "steps": 1, "prompts": ["a"]}
    config = configure(train={"max_steps": 4, "validation_every": 0}, checkpoints={"every": 2}, samples=samples)
    path = written(config, tmp_path / "run.yaml")
    words = {"die": "was killed by SIGKILL", "stuck": "ended with status 86"}[kind]
    for _ in range(2):
        ran = train_on_ranks(path, 2, fault=f"sample-{kind}:1:2")
        assert ran.returncode == 1, ran.stdout + ran.stderr
        assert "rank 1 of 2 (process " in ran.stderr
        assert words in ran.stderr
        assert "the checkpoint step_0000002 is whole" in ran.stderr
    ran = train_on_ranks(path, 2, fault=f"sample-{kind}:1:2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "samples at step 2 are left out: rank 1: the process ended in them 2 times" in ran.stdout


def test_a_mistake_is_said_once_whatever_the_number_of_ranks(configure: Configure, tmp_path: Path) -> None:
    config = configure(data={"dataset": str(tmp_path / "missing")})
    ran = train_on_ranks(written(config, tmp_path / "run.yaml"), 2)
    assert ran.returncode == 2
    assert (ran.stdout + ran.stderr).count("error: ") == 1, ran.stderr


def test_a_stop_signal_reaches_every_rank_once_and_the_run_is_saved(configure: Configure, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("the console passes Ctrl-C on there")
    config = written(
        configure(train={"max_steps": 5000, "log_every": 1, "validation_every": 0}, checkpoints={"every": 0}),
        tmp_path / "run.yaml",
    )
    command = [sys.executable, "-m", "loraloom", "train", "--config", str(config), "--num-processes", "2"]
    bare = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # a machine without a GPU, where nobody needs to say --cpu
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=bare) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("step 1/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped by SIGINT at step" in said
    assert len(CheckpointFolder(tmp_path / "run" / "checkpoints").steps()) == 1


def test_ranks_whose_supervisor_was_killed_save_and_end(configure: Configure, tmp_path: Path) -> None:
    """They would train on as orphans, in a folder that nobody else can use."""
    if os.name == "nt":
        pytest.skip("Windows has no SIGTERM that a process can answer")
    config = written(
        configure(train={"max_steps": 100_000, "log_every": 1, "validation_every": 0}, checkpoints={"every": 0}),
        tmp_path / "run.yaml",
    )
    command = [sys.executable, "-m", "loraloom", "train", "--config", str(config), "--cpu", "--num-processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("step 1/"):
            assert process.poll() is None
        process.kill()
        process.communicate()
    end = time.monotonic() + 120
    while (tmp_path / "run" / ".lock").exists() and time.monotonic() < end:
        time.sleep(0.05)
    (step,) = CheckpointFolder(tmp_path / "run" / "checkpoints").steps()
    assert damage(CheckpointFolder(tmp_path / "run" / "checkpoints").path(step)) is None


def test_prompts_may_be_edited_while_a_run_trains_and_a_broken_edit_is_reported(
    configure: Configure, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("first\n", encoding="utf-8")
    said: list[str] = []

    def edit(done: int, numbers: dict[str, float]) -> None:
        if done == 1:
            prompts.write_text("second\nthird\n", encoding="utf-8")
        if done == 2:
            prompts.write_bytes(b"\xff\xfe broken")
        if done == 3:
            prompts.unlink()

    samples = {"enabled": True, "steps": 1, "prompt_file": str(prompts)}
    config = configure(
        train={"max_steps": 3, "log_every": 1, "validation_every": 0}, checkpoints={"every": 1}, samples=samples
    )
    folder = train(config, say=said.append, report=edit).folder
    texts = {
        step: [
            path.read_text(encoding="utf-8") for path in sorted((folder / "samples" / f"step_{step:07d}").glob("*.txt"))
        ]
        for step in range(4)
    }
    assert texts == {0: ["first\n"], **{step: ["second\n", "third\n"] for step in (1, 2, 3)}}
    assert f"sample prompts: 2 from {prompts}" in said
    warned = [line for line in said if line.startswith("warning: sample prompts: ")]
    assert len(warned) == 2, said
    assert all(line.endswith("those before are used, and training continues") for line in warned)
