"""The README's first command: it writes what it names, learns, checks, and never touches a folder that is not its own."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loraloom.cli import quickstart
from loraloom.cli.quickstart import (
    FULL_BEST_OF,
    FULL_STEPS,
    GENERATE_S,
    LEAST_BEST_OF,
    LEAST_STEPS,
    MARK,
    TRAIN_S,
    Size,
    candidates_that_fit,
    run_config,
    run_quickstart,
    steps_that_fit,
)
from loraloom.config.comparing import read_run
from loraloom.utils.errors import UserError


@pytest.mark.long
def test_quickstart_trains_checks_reports_and_replaces_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is measured, with budgets so small that the least number of steps and of candidates is taken."""
    monkeypatch.setattr(quickstart, "TRAIN_S", 0.01)
    monkeypatch.setattr(quickstart, "GENERATE_S", 0.01)
    monkeypatch.setattr(quickstart, "LEAST_STEPS", 4)
    monkeypatch.setattr(quickstart, "PROBE_STEPS", 4)
    monkeypatch.setattr(quickstart, "PROBE_WARM", 1)
    monkeypatch.setattr(quickstart, "GENERATE_STEPS", 4)
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / "plans" / "of an earlier one").mkdir(parents=True)
    for name in (MARK, "mine.txt"):
        (folder / name).touch()
    said: list[str] = []
    run_quickstart(folder, Size(plans=40, prompts=2), said.append)
    assert not (folder / "plans" / "of an earlier one").exists()
    assert (folder / "mine.txt").is_file()
    shares = {name: int(share) for name, share in re.findall(r"sentences met, ([^:]+): (\d+)%", "\n".join(said))}
    receipts = [
        json.loads(file.read_text(encoding="utf-8")) for file in (folder / "images" / "receipts").glob("*.json")
    ]
    met = [one["met"] / (one["met"] + one["not_met"] + one["cannot_tell"]) for one in receipts]
    assert abs(shares["adapter, best candidate after repair"] - 100 * sum(met) / 2) <= 0.5
    assert any("the true plan of another caption: " in line for line in said)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert "the base" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert Image.open(folder / "images" / "00000.png").size == (256, 256)
    assert (folder / "images" / "receipts" / "00001.json").is_file()
    assert (folder / "run" / "exports" / "pytorch_lora_weights.safetensors").is_file()
    assert (folder / "run" / "samples" / "sheet.png").is_file()
    assert read_run(folder / "run").train.max_steps == 4
    assert any(
        re.search(r"this machine: \d+ images/s; 4 steps, .*--steps 720 for the full recipe", line) for line in said
    )
    assert any("best of 2 for each caption; --best-of 8 for the full recipe" in line for line in said)
    first = json.loads((folder / "first" / "receipts" / "00000.json").read_text(encoding="utf-8"))
    assert first["met"] > 0
    assert not (folder / "probe").exists()
    assert read_run(folder / "run").data.domain == "floorplan"  # as the dataset was prepared; nothing else said it


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        run_quickstart(tmp_path, Size(plans=60, steps=1), print)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


@given(st.floats(1e-4, 1e3))
def test_training_is_budgeted_between_the_least_and_the_full_recipe(step_s: float) -> None:
    steps = steps_that_fit(step_s)
    assert LEAST_STEPS <= steps <= FULL_STEPS
    assert steps * step_s <= TRAIN_S or steps == LEAST_STEPS
    assert (steps + 1) * step_s > TRAIN_S * 0.999 or steps == FULL_STEPS


@given(st.floats(1e-4, 1e3), st.integers(1, 8))
def test_drawing_is_budgeted_repairs_included(image_s: float, prompts: int) -> None:
    best_of = candidates_that_fit(image_s, prompts)
    assert LEAST_BEST_OF <= best_of <= FULL_BEST_OF
    assert (best_of + 4.5) * image_s * prompts <= GENERATE_S * 1.001 or best_of == LEAST_BEST_OF


def test_warm_up_and_average_scale_with_the_length_of_the_run(tmp_path: Path) -> None:
    """An average that spans 50 steps would hold the noise of the first steps of a run of 100."""
    full, short = run_config(tmp_path, FULL_STEPS), run_config(tmp_path, 144)
    assert (full.lora.ema_decay, full.optim.warmup_steps) == (0.98, 10)
    assert (1 - short.lora.ema_decay) * 144 == pytest.approx((1 - full.lora.ema_decay) * FULL_STEPS)
    assert short.optim.warmup_steps == 2
