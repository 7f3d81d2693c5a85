"""Ranks as small processes without torch: how they end, what is shown of them, what their environment is."""

import sys
from pathlib import Path

import pytest

from loraloom.cli.processes import count_processes, without
from loraloom.utils import ranks
from loraloom.utils.errors import UserError
from loraloom.utils.gpu_figures import PACKAGE, GpuFigures


def run(code: str, log: Path | None = None, count: int = 2) -> ranks.Ended:
    return ranks.run_ranks(
        [sys.executable, "-c", f"import os, sys, time\nrank = int(os.environ['RANK'])\n{code}"], count, log
    )


def test_the_first_fault_is_named_and_a_rank_that_waits_for_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "GRACE_S", 0.1)
    ended = run("sys.exit(7) if rank == 1 else time.sleep(600)")
    assert (ended.first, ended.codes[1]) == (1, 7)
    assert ended.reason() == "ended with status 7"
    assert ended.codes[0] != 0


def test_a_rank_that_lost_another_is_not_the_one_to_blame() -> None:
    ended = run(f"sys.exit({ranks.LOST}) if rank == 0 else (time.sleep(0.5), sys.exit(7))")
    assert (ended.first, ended.codes) == (1, (ranks.LOST, 7))


def test_lines_have_their_rank_and_an_error_of_all_ranks_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run" / "logs" / "ranks.log"
    log.parent.parent.mkdir()
    ended = run("print('hello'); sys.stderr.write('error: no dataset\\n  make one\\n'); sys.exit(2)", log)
    assert ended.codes == (2, 2)
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["[1] hello", "hello"]
    assert err.splitlines() == ["error: no dataset", "  make one"]
    assert sorted(log.read_text(encoding="utf-8").splitlines()) == sorted(
        f"[{rank}] {line}" for rank in (0, 1) for line in ("hello", "error: no dataset", "  make one")
    )


def test_an_error_of_one_rank_alone_is_said_with_its_number(capfd: pytest.CaptureFixture[str]) -> None:
    run(f"sys.exit({ranks.LOST}) if rank == 0 else (sys.stderr.write('error: a full disk\\n'), sys.exit(2))")
    assert capfd.readouterr().err == "[1] error: a full disk\n"


def test_what_the_user_set_for_threads_and_networks_is_kept() -> None:
    plain = ranks.rank_environment(1, 4, 5000, {})
    assert (plain["RANK"], plain["WORLD_SIZE"], plain["MASTER_PORT"]) == ("1", "4", "5000")
    assert int(plain["OMP_NUM_THREADS"]) >= 1
    kept = ranks.rank_environment(0, 4, 5000, {"OMP_NUM_THREADS": "3", "GLOO_SOCKET_IFNAME": "eth9"})
    assert (kept["OMP_NUM_THREADS"], kept["GLOO_SOCKET_IFNAME"]) == ("3", "eth9")


def test_a_number_of_processes_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (count_processes(None, cpu=True), count_processes("3", cpu=True)) == (1, 3)
    for wish in ("0", "two", "-1", "99999", "٣"):
        with pytest.raises(UserError, match="--num-processes"):
            count_processes(wish, cpu=True)
    with pytest.raises(UserError, match="counts GPUs"):
        count_processes("auto", cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a launcher has started them already"):
        count_processes("2", cpu=True)


def test_options_with_their_values_are_left_out_of_the_ranks_arguments() -> None:
    given = ["train", "--num-processes", "2", "--cpu", "--num-processes=3", "--out", "x"]
    assert without(given, "--num-processes") == ["train", "--cpu", "--out", "x"]


def test_without_the_package_there_are_no_figures_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    figures = GpuFigures("GPU-0")
    assert figures.read() == {}
    assert PACKAGE in figures.problem
    assert GpuFigures("").problem == ""
