"""What a sweep tries: texts of scales, checkpoints and averages, and a mistake in each as one line."""

import json
from pathlib import Path

import pytest

from loraloom.config.evaluate import SweepConfig
from loraloom.evaluate.sweep_plan import find_checkpoints, make_averages, read_lengths, read_scales
from loraloom.prompts.notes import Losses
from loraloom.utils.errors import UserError
from tests.lora.test_averaging import checkpoint


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("0.4-1.2:0.2", (0.4, 0.6, 0.8, 1.0, 1.2)),
        ("0.8, 0.4,0.8", (0.4, 0.8)),
        ("-1--0.5:0.5,1e-1", (-1.0, -0.5, 0.1)),
        ("1", (1.0,)),
        ("0.1-0.35:0.1", (0.1, 0.2, 0.3)),
    ],
)
def test_scales_are_read_as_lists_and_ranges(text: str, scales: tuple[float, ...]) -> None:
    assert read_scales(text) == scales


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "0",
        "strong",
        "0.4,high",
        "0.4-1.2",
        "0.4-1.2:0",
        "1.2-0.4:0.2",
        "nan",
        "inf",
        "101",
        "0-1:1e-9",
        "0.4:0.2",
    ],
)
def test_a_scale_that_is_none_is_one_line_with_what_was_expected(text: str) -> None:
    with pytest.raises(UserError, match="--scales") as caught:
        read_scales(text)
    assert caught.value.expected


def test_averages_need_two_checkpoints_and_auto_makes_none_of_fewer_than_three() -> None:
    assert read_lengths("auto", 2) == ()
    assert read_lengths("auto", 3) == (0.1, 0.2)
    assert read_lengths("none", 9) == ()
    assert read_lengths("0.2, 0.05", 2) == (0.05, 0.2)
    with pytest.raises(UserError, match="an average needs two checkpoints"):
        read_lengths("0.1", 1)


@pytest.mark.parametrize("text", ["0", "0.5", "-0.1", "long", "nan", ""])
def test_a_length_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--ema"):
        read_lengths(text, 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dog"
    for step in (10, 20, 30, 40):
        checkpoint(folder, step, step / 10)
    return folder


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [("all", [10, 20, 30, 40]), ("newest:2", [30, 40]), ("40, 10", [10, 40]), ("newest:9", [10, 20, 30, 40])],
)
def test_checkpoints_are_all_some_or_the_newest(run: Path, wanted: str, steps: list[int]) -> None:
    found = find_checkpoints(run, SweepConfig(checkpoints=wanted), Losses(print))
    assert [candidate.step for candidate in found] == steps
    assert [candidate.label for candidate in found] == [f"step {step}" for step in steps]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("15", "one of 10, 20, 30, 40"),
        ("last", "not a step"),
        ("newest:0", "newest:3"),
        (",", "names none"),
        ("-1", "not a step"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_one_line(run: Path, wanted: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        find_checkpoints(run, SweepConfig(checkpoints=wanted), Losses(print))
    assert words in str(caught.value)


def test_a_damaged_checkpoint_is_left_out_in_a_line_and_an_error_with_strict(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint(tmp_path, step, 1.0)
    (tmp_path / "checkpoints/step_0000020/adapter.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      half")
    manifest = {"sha256": {"adapter.safetensors": "0" * 64}}
    (tmp_path / "checkpoints/step_0000030/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    said: list[str] = []
    found = find_checkpoints(tmp_path, SweepConfig(), Losses(said.append))
    assert [candidate.step for candidate in found] == [10]
    assert [line.partition(" is left out")[0] for line in said] == ["warning: step_0000020", "warning: step_0000030"]
    strict = Losses(said.append, strict=True)
    find_checkpoints(tmp_path, SweepConfig(), strict)
    with pytest.raises(UserError, match="step_0000020 is left out"):
        strict.check()


def test_a_run_of_damaged_checkpoints_only_and_a_run_without_any_are_one_line(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", 10, 1.0)
    (tmp_path / "a/checkpoints/step_0000010/adapter.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="no checkpoint of this run is whole"):
        find_checkpoints(tmp_path / "a", SweepConfig(), Losses(print))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="no adapter in this folder"):
        find_checkpoints(tmp_path / "b", SweepConfig(), Losses(print))
    with pytest.raises(UserError, match="no such adapter"):
        find_checkpoints(tmp_path / "c", SweepConfig(), Losses(print))


def test_a_finished_adapter_counts_once_and_an_adapter_file_is_a_sweep_of_its_own(tmp_path: Path) -> None:
    last = checkpoint(tmp_path, 20, 1.0)
    (tmp_path / "adapter.safetensors").write_bytes(last.path.read_bytes())
    found = find_checkpoints(tmp_path, SweepConfig(), Losses(print))
    assert [candidate.name for candidate in found] == ["step_0000020"]
    (alone,) = find_checkpoints(tmp_path / "adapter.safetensors", SweepConfig(), Losses(print))
    assert (alone.step, alone.file.path) == (20, tmp_path / "adapter.safetensors")


def test_an_average_that_is_the_last_checkpoint_is_left_out_in_a_line(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    candidates = find_checkpoints(run, SweepConfig(), Losses(print))
    made = make_averages(candidates, [0.01, 0.2], tmp_path, Losses(said.append))
    assert [(average.name, average.label, average.step) for average in made] == [("ema_0.2", "EMA 0.2", 40)]
    assert made[0].place == tmp_path / "ema_0.2"
    assert len(said) == 1
    assert "is left out" in said[0]
