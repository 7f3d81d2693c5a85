"""Numbers and images arrive, and a tracker that fails never ends a training."""

import json
from pathlib import Path

import pytest
from PIL import Image

from loraloom.config.run import TrackingConfig
from loraloom.tracking import open_tracker


def make_image(folder: Path) -> Path:
    path = folder / "00.png"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    return path


def test_events_are_lines_and_a_resume_takes_back_what_came_later(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, TrackingConfig(), {}, 0)
    for step in (10, 20, 30):
        tracker.event("train", step, loss=1.0 / step, bad=float("nan"))
    tracker.close()
    with (tmp_path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "ste')  # killed while writing
    tracker = open_tracker(tmp_path, TrackingConfig(), {}, 20)
    tracker.event("train", 30, loss=5.0)
    tracker.close()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 0.1), (20, 0.05), (30, 5.0)]
    assert rows[0]["bad"] == "nan"


def test_tensorboard_gets_scalars_and_images(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = open_tracker(tmp_path, TrackingConfig(tensorboard=True), {}, 0)
    tracker.event("train", 10, loss=0.5)
    tracker.image("samples/00", make_image(tmp_path), 10, "a prompt")
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("train/loss")[0].value == 0.5
    assert events.Images("samples/00")[0].width == 8


@pytest.mark.slow
def test_weights_and_biases_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = open_tracker(tmp_path, TrackingConfig(wandb=True), {"train.seed": 1}, 0)
    tracker.event("train", 10, loss=0.5)
    tracker.image("samples/00", make_image(tmp_path), 10, "a prompt")
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_tracker_that_fails_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = open_tracker(tmp_path, TrackingConfig(), {}, 0)
    tracker._sinks[0].close()
    tracker.event("train", 1, loss=1.0)
    tracker.event("train", 2, loss=1.0)
    (warning,) = caplog.messages
    assert "JsonLines failed" in warning
