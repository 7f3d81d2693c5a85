"""What goes wrong while training is named, bounded, and costs nothing that was learned."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loraloom.errors import UserError
from loraloom.extensions.families.stable_diffusion.model import StableDiffusionModel
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.run import train

from .conftest import Configure


def quiet(text: str) -> None:
    """Nobody listens."""


def test_samples_that_fail_are_reported_and_training_goes_on(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StableDiffusionModel, latents_bchw: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(StableDiffusionModel, "decode_latents", broken)
    said: list[str] = []
    result = train(configure(samples={"enabled": True, "steps": 1}), say=said.append)
    assert result.finished.step == 6
    warnings = [line for line in said if line.startswith("warning: samples at step")]
    assert len(warnings) == 3
    assert "RuntimeError: out of memory, say; training goes on" in warnings[0]


def test_samples_are_broken_off_at_their_deadline(configure: Configure) -> None:
    said: list[str] = []
    train(configure(samples={"enabled": True, "steps": 50, "deadline_s": 1e-6}), say=said.append)
    assert any("broken off after 0 s (samples.deadline_s)" in line for line in said)


def poisoned(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Let the denoiser answer NaN in some of its training calls, counted from 0."""
    original, count = StableDiffusionModel.predict, iter(range(10_000))

    def predict(self: StableDiffusionModel, *args: Any) -> torch.Tensor:
        answer = original(self, *args)
        if torch.is_grad_enabled() and next(count) in calls:
            return answer * float("nan")
        return answer

    monkeypatch.setattr(StableDiffusionModel, "predict", predict)


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_an_update_that_is_not_finite_is_skipped_and_its_samples_are_named(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    poisoned(monkeypatch, {2})
    said: list[str] = []
    optim = {"optimizer": optimizer, "learning_rate": 1.0 if optimizer == "prodigy" else 1e-3}
    result = train(configure(optim=optim, train={"validation_every": 0}), say=said.append)
    (warning,) = [line for line in said if "was skipped" in line]
    assert warning.startswith("warning: step 3 was skipped: loss nan")
    assert "samples 0" in warning
    tensors = load_file(result.folder / "adapter.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert any(bool(tensor.any()) for key, tensor in tensors.items() if ".lora_B." in key)


def test_poison_without_end_stops_the_run_with_the_last_checkpoint_intact(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poisoned(monkeypatch, set(range(4, 1000)))
    config = configure(train={"max_steps": 40, "max_non_finite": 5, "log_every": 1}, checkpoints={"every": 2})
    with pytest.raises(
        UserError, match=r"5 updates in a row were not finite, the last at step 9.*\n.*checkpoint is intact"
    ):
        train(config, say=quiet)
    newest = CheckpointFolder(tmp_path / "run" / "checkpoints").load_newest()[0]
    assert newest is not None
    assert all(bool(tensor.isfinite().all()) for tensor in newest.adapter.values())


def test_validation_loss_depends_on_the_weights_alone(configure: Configure, tmp_path: Path) -> None:
    losses = []
    for name, dropout in (("a", 0.9), ("b", 0.0)):
        config = configure(
            train={"output": str(tmp_path / name), "max_steps": 1, "validation_every": 1},
            lora={"dropout": dropout}, optim={"learning_rate": 1e-30},
        )  # fmt: skip
        train(config, say=quiet)
        rows = [json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        losses.append(next(row["loss"] for row in rows if row["kind"] == "validation"))
    assert losses[0] == losses[1]


def test_bfloat16_training_keeps_a_float32_adapter_and_good_exports(configure: Configure) -> None:
    result = train(configure(train={"mixed_precision": "bf16"}, export={"verify": True}), say=quiet)
    assert {tensor.dtype for tensor in load_file(result.folder / "adapter.safetensors").values()} == {torch.float32}
    assert len(result.checks) == 2
    assert all(check.good for check in result.checks)


def test_gradient_checkpointing_and_accumulation_learn_the_same(configure: Configure, tmp_path: Path) -> None:
    def weights(name: str, **groups: dict[str, object]) -> dict[str, torch.Tensor]:
        groups.setdefault("train", {})["output"] = str(tmp_path / name)
        return load_file(train(configure(**groups), say=quiet).folder / "adapter.safetensors")

    plain = weights("plain")
    for key, value in weights("recomputed", train={"gradient_checkpointing": True}).items():
        assert torch.allclose(value, plain[key], atol=1e-6)


def test_a_run_can_begin_from_another_runs_checkpoint_without_touching_it(configure: Configure, tmp_path: Path) -> None:
    first = train(configure(), say=quiet).folder
    before = {path: path.read_bytes() for path in first.rglob("*.safetensors")}
    said: list[str] = []
    wish = str(first / "checkpoints" / "step_0000003")
    config = configure(train={"output": str(tmp_path / "other")}, checkpoints={"resume": wish})
    second = train(config, say=said.append).folder
    assert "going on from step 3" in said
    assert {path: path.read_bytes() for path in first.rglob("*.safetensors")} == before
    one, two = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)
    train(config, say=said.append)  # the same command again goes on from its own checkpoints
    assert said[-1] != "going on from step 3"
    with pytest.raises(UserError, match=r"lora\.rank"):
        train(
            configure(train={"output": str(tmp_path / "third")}, checkpoints={"resume": wish}, lora={"rank": 2}),
            say=quiet,
        )


def test_going_back_to_an_older_checkpoint_is_never_silent(configure: Configure) -> None:
    folder = train(configure(), say=quiet).folder
    with pytest.raises(UserError, match="step_0000003 is not the newest checkpoint"):
        train(configure(checkpoints={"resume": str(folder / "checkpoints" / "step_0000003")}), say=quiet)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_in_silence(
    configure: Configure, tmp_path: Path
) -> None:
    train(configure(), say=quiet)
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        (folder / "adapter.safetensors").write_bytes(b"gone")
    with pytest.raises(UserError, match="all checkpoints of this run are damaged"):
        train(configure(), say=quiet)


def test_a_used_folder_is_refused_when_resuming_is_forbidden(configure: Configure) -> None:
    train(configure(), say=quiet)
    with pytest.raises(UserError, match="holds a run already"):
        train(configure(checkpoints={"resume": "never"}), say=quiet)


def test_captions_that_need_too_many_windows_are_all_named(configure: Configure, dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "long"
    shutil.copytree(dataset, copy)
    rows = [json.loads(line) for line in (copy / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows[:2]:
        row["caption"] = "a long sentence about a picture. " * 12
    (copy / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=rf"2 captions need more windows.*{rows[0]['id']} \(\d+\), {rows[1]['id']}"):
        train(configure(data={"dataset": str(copy)}, prompts={"max_windows": 2}), say=quiet)
    said: list[str] = []
    train(configure(data={"dataset": str(copy)}, prompts={"method": "truncate"}), say=said.append)
    assert any("leaves out part of 2 captions, listed in captions_cut.txt" in line for line in said)
    assert rows[0]["id"] in (tmp_path / "run" / "captions_cut.txt").read_text(encoding="utf-8")


def test_flipping_captions_that_speak_of_left_and_right_is_refused(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "sided"
    shutil.copytree(dataset, copy)
    text = (copy / "manifest.jsonl").read_text(encoding="utf-8").replace("a drawn picture", "a dog left of a cat")
    (copy / "manifest.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="captions speak of left and right"):
        train(configure(data={"dataset": str(copy), "random_flip": True}), say=quiet)


def test_a_picture_changed_after_prepare_is_refused(configure: Configure, dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "edited"
    shutil.copytree(dataset, copy)
    picture = next((copy / "images").rglob("*.png"))
    picture.write_bytes(picture.read_bytes() + b" ")
    with pytest.raises(UserError, match="changed after `prepare`"):
        train(configure(data={"dataset": str(copy)}), say=quiet)


def with_captions(dataset: Path, copy: Path, *captions: str) -> Path:
    """A copy of a dataset whose first captions are these."""
    shutil.copytree(dataset, copy)
    rows = [json.loads(line) for line in (copy / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, caption in zip(rows, captions, strict=False):
        row["caption"] = caption
    (copy / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return copy


def test_what_is_not_read_of_captions_and_sample_prompts_is_counted_once_and_strict_refuses_it(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    long = "a long sentence about an image. " * 12
    copy = with_captions(dataset, tmp_path / "long", "a dog BREAK a cat", "a (dog:1.3)", long)
    samples = {"enabled": True, "steps": 1, "prompts": [long, "[word]"], "negative_prompt": long}
    groups: dict[str, dict[str, Any]] = {
        "data": {"dataset": str(copy)}, "prompts": {"method": "truncate"}, "samples": samples,
    }  # fmt: skip
    with pytest.raises(UserError, match="--strict is on") as refused:
        train(configure(train={"strict": True}, **groups), say=quiet)
    assert not (tmp_path / "run" / "checkpoints").exists()
    said: list[str] = []
    train(configure(train={"strict": False}, **groups), say=said.append)
    lines = [line for line in said if "does not read" in line or "syntax" in line or "leaves out" in line]
    assert len(lines) == 5
    for line, part in zip(
        lines,
        ("in 2 of 7 captions: 'BREAK' (1), '(dog:1.3)' (1)", "leaves out part of 1 captions", "the sample prompt 'a long",
         "the negative prompt of samples 'a long", "in 1 of 2 sample prompts: '[word]' (1)"),
        strict=True,
    ):  # fmt: skip
        assert part in line
        assert line.split(": ", 1)[1] in str(refused.value)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()]
    assert [event["text"] for event in events if event["kind"] == "note"] == lines
