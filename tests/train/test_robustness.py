"""What goes wrong while training is named, bounded, and costs nothing that was learned."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loraloom.extensions.families.stable_diffusion.model import StableDiffusionModel
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.optim import LossScale
from loraloom.train.run import train
from loraloom.utils import atomic_files as files
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder

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
    assert "RuntimeError: out of memory, say; training continues" in warnings[0]


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


def test_poison_without_end_stops_the_run_and_names_the_checkpoint_that_is_whole(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poisoned(monkeypatch, set(range(4, 1000)))
    config = configure(train={"max_steps": 40, "max_non_finite": 5, "log_every": 1}, checkpoints={"every": 2})
    with pytest.raises(
        UserError, match=r"5 updates in a row were not finite, the last at step 9.*\n.*checkpoint of step 8 is whole"
    ):
        train(config, say=quiet)
    newest = CheckpointFolder(tmp_path / "run" / "checkpoints").load_newest()[0]
    assert newest is not None
    assert all(bool(tensor.isfinite().all()) for tensor in newest.components["adapter"].values())


def test_validation_loss_depends_on_the_weights_alone(configure: Configure, tmp_path: Path) -> None:
    losses = []
    for name, dropout in (("a", 0.9), ("b", 0.0)):
        config = configure(
            train={"output": str(tmp_path / name), "max_steps": 1, "validation_every": 1},
            lora={"dropout": dropout}, optim={"learning_rate": 1e-30},
        )  # fmt: skip
        with pytest.raises(UserError, match="changes nothing"):  # so the weights are the same
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
    assert "resuming from step 3" in said
    assert {path: path.read_bytes() for path in first.rglob("*.safetensors")} == before
    one, two = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)
    train(config, say=said.append)  # the same command again resumes from its own checkpoints
    assert said[-1] != "resuming from step 3"
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
        row["caption"] = "a long sentence about an image. " * 12
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
    text = (copy / "manifest.jsonl").read_text(encoding="utf-8").replace("a drawn image", "a dog left of a cat")
    (copy / "manifest.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="captions speak of left and right"):
        train(configure(data={"dataset": str(copy), "random_flip": True}), say=quiet)


def test_several_captions_flips_and_variants_are_all_precomputed_and_nothing_else_is(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "varied"
    shutil.copytree(dataset, copy)
    rows = [json.loads(line) for line in (copy / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["more_captions"] = [f"{row['caption']}, on the left", f"{row['caption']}, a left hand"][
            : 1 + (row is rows[0])
        ]
    (copy / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines: list[str] = []
    data = {"dataset": str(copy), "random_flip": True}
    config = configure(data=data, augment={"flip_unknown": "keep", "variants": 2})
    train(config, say=lines.append)
    assert any("augmentation: 2 variants of each image" in line for line in lines)
    latents = len(list((tmp_path / "cache" / "latents").rglob("*.safetensors")))
    learned = sum(row["split"] == "train" for row in rows)
    held = len(rows) - learned
    unflipped = rows[0]["split"] == "train"
    assert latents == 3 * 2 * learned - 3 * unflipped + held
    assert any("cannot be rewritten: 1 image not mirrored" in line for line in lines) == unflipped


def test_a_image_changed_after_prepare_is_refused(configure: Configure, dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "edited"
    shutil.copytree(dataset, copy)
    image = next((copy / "images").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b" ")
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


def test_overflows_of_the_loss_scale_are_not_said_not_counted_and_cost_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16's scale starts high and comes down by overflows: each was warned of and named innocent images.

    Here in float32, whose gradients overflow in the same way with a scale beyond 2^128.
    """
    monkeypatch.setattr("loraloom.train.build.LossScale", lambda enabled: LossScale(True, 2.0**131))
    said: list[str] = []
    result = train(configure(train={"max_steps": 12, "max_non_finite": 1}), say=said.append)
    assert not [line for line in said if line.startswith("warning")]
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text("utf-8").splitlines()]
    overflows = [event for event in events if event["kind"] == "overflow"]
    assert 4 <= len(overflows) < 12
    assert [event["loss_scale"] for event in overflows[:2]] == [2.0**131, 2.0**130]
    assert any(bool(value.any()) for key, value in load_file(result.adapter or "").items() if ".lora_B." in key)


def test_a_loss_scale_that_has_collapsed_excuses_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradients that are NaN at a scale below 1 are no overflow: the run ends as without scaling."""
    original = StableDiffusionModel.predict

    def predict(self: StableDiffusionModel, *args: Any) -> torch.Tensor:
        answer = original(self, *args)
        if answer.requires_grad:
            answer.register_hook(lambda gradient: gradient * float("nan"))
        return answer

    monkeypatch.setattr(StableDiffusionModel, "predict", predict)
    monkeypatch.setattr("loraloom.train.build.LossScale", lambda enabled: LossScale(True, 8.0))
    config = configure(train={"max_steps": 40, "max_non_finite": 3, "log_every": 1}, checkpoints={"every": 0})
    said: list[str] = []
    with pytest.raises(UserError, match=r"3 updates in a row were not finite, the last at step 7") as ended:
        train(config, say=said.append)
    assert len([line for line in said if "was skipped" in line]) == 3
    assert "there is no checkpoint yet" in str(ended.value)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("fault", ["nan", "rate"])
def test_a_run_that_moved_no_weight_is_an_error_and_exports_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, method: str
) -> None:
    """A short run whose every update was skipped ended "done" and exported "good … adapter changes 0.00"."""
    if fault == "nan":
        poisoned(monkeypatch, set(range(1000)))
    groups: dict[str, dict[str, Any]] = {
        "train": {"max_steps": 3, "method": method, "validation_every": 0},
        "optim": {"learning_rate": 1e-3 if fault == "nan" else 1e-60, "weight_decay": 0.0},
        "lora": {"ema_decay": 0.9},
    }
    match = "3 of 3 updates skipped" if fault == "nan" else "a peak learning rate of 1e-60"
    with pytest.raises(UserError, match=f"nothing was learned in 3 steps.*{match}"):
        train(configure(**groups), say=quiet)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    assert not (tmp_path / "run" / "exports").exists()
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(UserError, match="nothing was learned"):
        train(configure(**groups), say=quiet)  # the same command again is no way round


OUTCOME: dict[str, tuple[float, bool, str]] = {
    "far too high": (1e10, True, r"(?s)absurdly strong|generates NaN|NaN or infinite.*lower optim\.learning_rate"),
    "far too high, without a check of exports": (1e10, False, r"(?s)absurdly strong.*lower optim\.learning_rate"),
    "far too low": (1e-30, True, r"(?s)changes nothing.*rate of 1e-30.*raise optim\.learning_rate"),
    "far too low, without a check of exports": (1e-30, False, r"(?s)changes nothing.*rate of 1e-30"),
}


@pytest.mark.parametrize(("rate", "verify", "match"), OUTCOME.values(), ids=list(OUTCOME))
def test_an_adapter_that_draws_nothing_of_use_is_an_error_that_names_the_learning_rate(
    configure: Configure, tmp_path: Path, rate: float, verify: bool, match: str
) -> None:
    """Such runs ended "done", with "report this" about the export or with "good … adapter changes 0.00e+00"."""
    config = configure(
        train={"max_steps": 4, "validation_every": 0}, optim={"learning_rate": rate}, export={"verify": verify}
    )
    said: list[str] = []
    with pytest.raises(UserError, match=match) as ended:
        train(config, say=said.append)
    assert "samples" not in str(ended.value), "the images are innocent"
    assert "fp16" not in str(ended.value), "this is no fp16 run"
    assert not [line for line in said if "report this" in line]
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    assert not (tmp_path / "run" / "exports").exists()
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.parametrize("whose", ["adapter", "base"])
def test_nan_in_the_trial_is_told_from_a_bad_export(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whose: str
) -> None:
    from loraloom.train import outcome

    if whose == "adapter":
        monkeypatch.setattr(outcome, "_latents", lambda run, request, noise, file: noise * float("nan"))
    else:
        monkeypatch.setattr(StableDiffusionModel, "reference_latents", lambda self, file, request, noise: noise / 0.0)
    match = (
        "the adapter itself generates NaN after 6 steps"
        if whose == "adapter"
        else "base model generates NaN without any"
    )
    with pytest.raises(UserError, match=match):
        train(configure(export={"verify": True}), say=quiet)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()
    assert not (tmp_path / "run" / "exports").exists()


def test_a_run_without_any_gradient_does_not_advise_a_higher_learning_rate(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StableDiffusionModel.predict
    monkeypatch.setattr(StableDiffusionModel, "predict", lambda self, *args: original(self, *args) * 0)
    config = configure(train={"validation_every": 0}, optim={"weight_decay": 0.0})
    with pytest.raises(UserError, match="gradient norm of 0 at every step") as ended:
        train(config, say=quiet)
    assert "raise" not in str(ended.value)


def bad_vae(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """A VAE that gives one latent of the widest images this value."""
    original = StableDiffusionModel.encode_images

    def encode(self: StableDiffusionModel, pixels_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, logvar = original(self, pixels_bchw)
        if pixels_bchw.shape[-1] > pixels_bchw.shape[-2]:
            logvar[:, 0, 0, 0] = value
        return mean, logvar

    monkeypatch.setattr(StableDiffusionModel, "encode_images", encode)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_for_which_the_vae_gives_nan_are_named_and_never_cached(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float
) -> None:
    with monkeypatch.context() as context:
        bad_vae(context, value)
        with pytest.raises(UserError, match=r"the VAE gives NaN or infinity for images.*001, 003, 005"):
            train(configure(), say=quiet)
    kept = list((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    assert len(kept) == 4, "the good ones are kept"
    assert all(bool(tensor.isfinite().all()) for file in kept for tensor in load_file(file).values())
    train(configure(), say=quiet)  # a VAE that is well again needs no cleaning


def test_an_old_cache_entry_that_is_not_finite_is_computed_again(configure: Configure, tmp_path: Path) -> None:
    train(configure(), say=quiet)
    latents = list((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    before = [load_file(file) for file in latents]
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        save_file({key: torch.full_like(value, float("nan")) for key, value in load_file(file).items()}, file)
    again = train(configure(train={"output": str(tmp_path / "again")}), say=quiet)
    for file, tensors in zip(latents, before, strict=True):
        for key, value in load_file(file).items():
            assert torch.allclose(value, tensors[key], atol=1e-4)
    events = (again.folder / "events.jsonl").read_text("utf-8")
    assert '"skipped"' not in events


def test_a_caption_for_which_the_text_encoder_gives_nan_is_named(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from loraloom.extensions.families.stable_diffusion.text import ClipText

    original = ClipText.encode_windows
    monkeypatch.setattr(ClipText, "encode_windows", lambda self, ids: original(self, ids) * float("nan"))
    with pytest.raises(UserError, match="the text encoder gives NaN or infinity for a text: got 'a drawn"):
        train(configure(), say=quiet)
    assert not list((tmp_path / "cache" / "texts").rglob("*.safetensors"))


# ------------------------------------------------------------------------------------------- folders, locks, leftovers


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["nowhere", "run"])
def test_a_link_that_leads_nowhere_or_to_itself_is_refused_as_out(
    configure: Configure, tmp_path: Path, target: str
) -> None:
    (tmp_path / "run").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="run is a link that leads nowhere"):
        train(configure(), say=quiet)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_run_folder_removed_while_training_is_made_again_and_said(configure: Configure, tmp_path: Path) -> None:
    said: list[str] = []

    def report(done: int, numbers: dict[str, float]) -> None:
        if done == 2:
            shutil.rmtree(tmp_path / "run")

    folder = train(configure(), say=said.append, report=report).folder
    (line,) = [line for line in said if "was removed while" in line]
    assert line.startswith("warning: ")
    assert not (folder / ".lock").exists(), "the new lock was let go too"
    assert CheckpointFolder(folder / "checkpoints").steps() == [3, 6]
    assert {"run.yaml", "events.jsonl", "adapter.safetensors"} <= {entry.name for entry in folder.iterdir()}
    said.clear()
    train(configure(train={"max_steps": 8}), say=said.append)
    assert "resuming from step 6" in said


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_run_whose_folder_another_process_took_ends_and_touches_nothing_there(
    configure: Configure, tmp_path: Path
) -> None:
    """A removed run folder was made again in silence, without a lock: two runs could mix in it."""
    other = ExitStack()

    def report(done: int, numbers: dict[str, float]) -> None:
        if done == 2:
            shutil.rmtree(tmp_path / "run")
            other.enter_context(lock_folder(tmp_path / "run"))

    with other:
        with pytest.raises(UserError, match="another process is at work in"):
            train(configure(tracking={"tensorboard": False}), say=quiet, report=report)
        assert not {"checkpoints", "adapter.safetensors", "run.yaml"} & {p.name for p in (tmp_path / "run").iterdir()}


def test_a_dataset_removed_while_caching_ends_in_one_error_and_the_next_run_goes_on(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)

    def progress(title: str) -> Callable[[int, int], None]:
        def remove(done: int, total: int) -> None:
            if title != "reading the manifest" and (copy / "images").is_dir():
                shutil.rmtree(copy / "images")

        return remove

    config = configure(data={"dataset": str(copy), "encode_batch_size": 1})
    with pytest.raises(UserError, match=r"the image of row .* is missing"):
        train(config, say=quiet, progress=progress)
    assert len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) == 1
    shutil.copytree(dataset / "images", copy / "images")
    said: list[str] = []
    train(config, say=said.append)
    assert "encoding 6 images" in said


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_is_whole(
    configure: Configure, tmp_path: Path
) -> None:
    """Two runs on one folder mixed their checkpoints, events and samples."""
    refused: list[UserError] = []

    def report(done: int, numbers: dict[str, float]) -> None:
        if done == 2:
            with pytest.raises(UserError, match=f"another process is at work in .*process {os.getpid()} on ") as second:
                train(configure(lora={"rank": 2}), say=quiet)
            refused.append(second.value)

    folder = train(configure(), say=quiet, report=report).folder
    assert len(refused) == 1
    assert not (folder / ".lock").exists()
    assert CheckpointFolder(folder / "checkpoints").steps() == [3, 6]


def test_what_a_kill_leaves_is_swept_at_the_next_start_and_lost_samples_are_drawn(
    configure: Configure, tmp_path: Path
) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    samples = {"enabled": True, "steps": 1, "prompts": ["a", "b"]}
    folder = train(configure(samples=samples), say=quiet).folder
    lost = [folder / "samples" / "step_0000006" / name for name in ("gpu_0_sample_2.png", "gpu_0_prompt_2.txt")]
    for path in lost:
        path.unlink()
    name = f".x.{files._HOST}-{int(ended.stdout)}.tmp"
    places = [folder, folder / "samples", lost[0].parent, folder / "checkpoints", folder / "exports"]
    places += [next(entry for entry in (tmp_path / "cache" / kind).iterdir()) for kind in ("latents", "texts")]
    for place in places:
        (place / name).touch()
    train(configure(samples=samples), say=quiet)
    assert all(path.is_file() for path in lost)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    before = lost[0].stat().st_mtime_ns
    train(configure(samples=samples), say=quiet)
    assert lost[0].stat().st_mtime_ns == before, "samples that are there are not drawn again"


def test_samples_carry_the_recipe_that_draws_them_again(configure: Configure, tmp_path: Path) -> None:
    from loraloom.cli.generate_command import GenerateOptions, generate
    from loraloom.cli.interactive import no_bars
    from loraloom.config.generate import GenerateConfig

    samples = {"enabled": True, "steps": 2, "prompts": ["a (dog:1.2)", "b"], "negative_prompt": "blur", "size": 32}
    folder = train(configure(samples=samples), say=quiet).folder
    for step in (0, 3):
        png = folder / "samples" / f"step_{step:07d}" / "gpu_0_sample_2.png"
        out = tmp_path / f"again{step}"
        generate(GenerateConfig(), GenerateOptions(recipe=png, out=out), {}, quiet, no_bars)
        with Image.open(png) as one, Image.open(out / "00000.png") as two:
            assert "Negative prompt: blur\nSteps: 2, Sampler: DPM++ 2M Karras, " in one.info["parameters"]
            difference = np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16))
        assert difference.max() <= 2


def test_batches_that_no_size_can_fill_deserve_a_sentence(configure: Configure) -> None:
    said: list[str] = []
    train(configure(data={"batch_size": 16}, train={"max_steps": 1, "validation_every": 0}), say=said.append)
    (line,) = [line for line in said if "repeats of weight zero" in line]
    assert line.startswith("note: a batch of 16 is more than the ")


def test_a_dataset_whose_rows_stay_on_disk_is_precomputed_in_pieces_and_learns_the_same(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    cached: list[set[str]] = []
    # The same images a batch of the VAE give the same latents to the last bit; smaller pieces make other batches.
    for name, rows, piece, steps in (("memory", 50_000, 4096, 4), ("disk", 2, 4096, 4), ("pieces", 2, 2, 1)):
        monkeypatch.setattr("loraloom.data.manifest.MAX_IN_MEMORY", rows)
        monkeypatch.setattr("loraloom.train.precompute._PIECE", piece)
        run, cache = tmp_path / name, tmp_path / f"cache-{name}"
        train(configure(train={"output": str(run), "max_steps": steps}, data={"cache_dir": str(cache)}), say=quiet)
        weights.append(load_file(run / "adapter.safetensors"))
        cached.append({path.name for path in cache.rglob("*.safetensors")})
    assert weights[0].keys() == weights[1].keys()
    for key, one in weights[0].items():
        assert torch.allclose(one, weights[1][key], atol=1e-6), key
    assert cached[0] == cached[1] == cached[2]
