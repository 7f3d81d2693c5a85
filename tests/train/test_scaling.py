"""The prediction of scaling: limits that any honest model has, and the dry run that feeds it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.cli.dry_run import dry_run
from loraloom.train.scaling import EXPECTED, Links, prediction_lines, speedup

from .conftest import Configure


@given(st.floats(0.001, 100), st.floats(1, 1e10), st.integers(1, 16), st.integers(1, 16), st.floats(0.1, 400))
def test_more_ranks_never_give_more_than_their_number_and_a_faster_network_never_harms(
    step: float, num_bytes: float, ranks: int, nodes: int, gbit: float
) -> None:
    factor = speedup(step, num_bytes, ranks, nodes, Links(network_gbit_per_s=gbit))
    assert 0 < factor <= ranks * nodes * (1 + 1e-9)
    assert factor <= speedup(step, num_bytes, ranks, nodes, Links(network_gbit_per_s=2 * gbit)) * (1 + 1e-9)
    assert speedup(step, num_bytes, 1, 1, Links()) == pytest.approx(1.0)


def test_what_people_expect_holds_for_small_loras_and_not_for_large_ones_over_a_gigabit() -> None:
    """A LoRA of 3 MB (rank 16, cross-attention of Stable Diffusion 1.5) against one of 150 MB, steps of 0.2 s."""
    small, large = ([speedup(0.2, size, r, n, Links()) for r, n, _ in EXPECTED] for size in (3e6, 150e6))
    assert all(factor >= expected for factor, (_, _, expected) in zip(small, EXPECTED, strict=True))
    assert large[1] < 2, "eight ranks on two machines are hardly faster than one"
    lines = prediction_lines(step_seconds=0.2, images=4, num_bytes=150e6, ranks=2, nodes=1, links=Links())
    assert sum("NOT reached" in line for line in lines) == 2, "within one machine PCIe is fast enough"


def test_a_dry_run_predicts_from_measured_steps_and_writes_no_run(configure: Configure, tmp_path: Path) -> None:
    said: list[str] = []
    dry_run(configure(optim={"warmup_steps": 3}), 2, 4, 10.0, said.append, cpu=True)
    assert not (tmp_path / "run").exists()
    assert any(line.startswith("8 ranks (2 on each of 4 machines): ") for line in said), said
    assert any("one message of 0.1 MB a step" in line for line in said), said
    assert said[-1] == "dry run: nothing was trained, and no run folder was written"
