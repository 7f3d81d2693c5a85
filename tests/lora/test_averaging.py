"""Averages of checkpoints: the weights of the power function profile, and the file that comes out."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loraloom.lora.averaging import LONGEST, average_adapters, average_weights, exponent_of
from loraloom.lora.files import AdapterFile, checkpoints_of, read_adapter, save_adapter
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_tensors

KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


def checkpoint(run: Path, step: int, value: float, rank: int = 2, kind: str = "step") -> AdapterFile:
    folder = run / "checkpoints" / f"{kind}_{step:07d}"
    folder.mkdir(parents=True)
    tensors = {
        f"{KEY}.lora_A.weight": torch.full((rank, 8), value),
        f"{KEY}.lora_B.weight": torch.full((8, rank), 2 * value),
    }
    save_adapter(folder / "adapter.safetensors", tensors, {"rank": rank, "alpha": 4.0, "step": step, "trigger": "sks"})
    return read_adapter(folder)


@pytest.mark.parametrize(("sigma", "exponent"), [(0.05, 16.97), (0.1, 6.94)])
def test_exponents_are_those_of_the_paper(sigma: float, exponent: float) -> None:
    """Karras et al. 2024, section 3.1: EMA lengths of 5 % and 10 % are the exponents 16.97 and 6.94."""
    assert exponent_of(sigma) == pytest.approx(exponent, abs=0.01)


@given(st.floats(0.01, LONGEST))
def test_the_exponent_gives_back_the_relative_deviation(sigma: float) -> None:
    power = exponent_of(sigma)
    assert math.sqrt(power + 1) / ((power + 2) * math.sqrt(power + 3)) == pytest.approx(sigma, rel=1e-6)


@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=20, unique=True).map(sorted),
    st.floats(0.005, LONGEST),
)
def test_weights_of_any_steps_are_a_mean_that_no_checkpoint_leaves_negative(steps: list[int], sigma: float) -> None:
    weights = average_weights(steps, sigma)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0


def test_equal_steps_give_weights_that_rise_and_the_longest_average_is_the_plain_mean() -> None:
    weights = average_weights([100, 200, 300, 400], 0.15)
    assert weights == sorted(weights)
    assert average_weights([100, 200, 300, 400], LONGEST) == pytest.approx([0.25] * 4, abs=1e-6)
    assert average_weights([100, 200, 300, 400], 0.02)[-1] > 0.999


def test_steps_whose_checkpoints_were_deleted_do_not_count() -> None:
    """Of a run of 1,000 steps that keeps three checkpoints, the first one must not stand for the 980 steps before."""
    weights = average_weights([980, 990, 1000], LONGEST)
    assert weights == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_the_average_is_the_weighted_mean_of_both_matrices_and_keeps_the_record(tmp_path: Path) -> None:
    files = {step: checkpoint(tmp_path, step, value) for step, value in ((10, 1.0), (20, 2.0), (30, 4.0))}
    weights = average_adapters(files, 0.2, tmp_path / "ema" / "adapter.safetensors")
    expected = weights[10] * 1 + weights[20] * 2 + weights[30] * 4
    tensors, _ = read_tensors(tmp_path / "ema" / "adapter.safetensors")
    assert tensors[f"{KEY}.lora_A.weight"].unique().item() == pytest.approx(expected)
    assert tensors[f"{KEY}.lora_B.weight"].unique().item() == pytest.approx(2 * expected)
    record = read_adapter(tmp_path / "ema").record
    assert (record["trigger"], record["step"], record["alpha"]) == ("sks", 30, 4.0)
    assert record["average"]["weights"] == {str(step): weight for step, weight in weights.items()}


def test_checkpoints_of_different_ranks_are_not_averaged_and_nothing_is_written(tmp_path: Path) -> None:
    files = {10: checkpoint(tmp_path, 10, 1.0), 20: checkpoint(tmp_path, 20, 1.0, rank=3)}
    with pytest.raises(UserError, match="different layers or ranks"):
        average_adapters(files, 0.2, tmp_path / "ema" / "adapter.safetensors")
    assert not (tmp_path / "ema").exists()


def test_checkpoints_are_listed_by_step_and_the_rolling_one_of_the_same_step_does_not_count(tmp_path: Path) -> None:
    for step, kind in ((20, "step"), (5, "step"), (20, "latest"), (25, "latest")):
        checkpoint(tmp_path, step, 1.0, kind=kind)
    (tmp_path / "checkpoints" / "step_0000030").mkdir()  # nothing in it
    found = [(step, path.parent.name) for step, path in checkpoints_of(tmp_path)]
    assert found == [(5, "step_0000005"), (20, "step_0000020"), (25, "latest_0000025")]
