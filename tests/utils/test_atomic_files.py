"""Files that appear whole or not at all."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.utils import atomic_files as files
from loraloom.utils.errors import UserError, did_you_mean


@given(data=st.binary(max_size=2000))
def test_sums_agree_with_hashlib_and_bytes_come_back(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "sum" / "data.bin"
    files.write_bytes(file, data)
    assert file.read_bytes() == data
    assert files.sha256_file(file) == files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_file_longer_than_one_piece_has_the_right_sum(tmp_path: Path) -> None:
    data = os.urandom(files.CHUNK_BYTES + 7)
    (tmp_path / "long").write_bytes(data)
    assert files.sha256_file(tmp_path / "long") == hashlib.sha256(data).hexdigest()


def test_text_keeps_its_line_ends_and_json_ends_in_one(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "é\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\nb\n".encode()
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert json.loads(text) == {"a": "é", "b": 1}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    files.write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as failed:
        files.write_text(file, "new")
    assert failed.value.filename == str(file)
    assert file.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_files_of_a_directory_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.whole_directory(tmp_path / "model") as target:
            os.close(os.open(target / "private", os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "private").stat().st_mode & 0o777 == 0o640


def test_a_directory_appears_only_when_it_is_full(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with files.whole_directory(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a", encoding="utf-8")
        assert not target.exists()
    assert (target / "sub" / "a").read_text(encoding="utf-8") == "a"
    assert [entry.name for entry in target.parent.iterdir()] == ["run"]


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with files.whole_directory(tmp_path / "run") as folder:
            (folder / name).write_text(name, encoding="utf-8")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_an_exception_leaves_the_old_directory_and_nothing_of_the_new(tmp_path: Path) -> None:
    with files.whole_directory(tmp_path / "run") as folder:
        (folder / "old").write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), files.whole_directory(tmp_path / "run") as folder:
        (folder / "new").write_text("new", encoding="utf-8")
        raise RuntimeError
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def run_until_killed(path: Path, program: str) -> None:
    """Run a program, to which `path` and `files` are known, in a process of its own that must end by SIGKILL."""
    known = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom loraloom.utils import atomic_files as files\n"
        "path = Path(sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", known + program, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_directory_killed_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    with files.whole_directory(tmp_path / "run") as folder:
        (folder / "old").write_text("old", encoding="utf-8")
    run_until_killed(
        tmp_path / "run",
        "with files.whole_directory(path) as folder:\n"
        "    (folder / 'new').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["old"]
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_directory_whose_removal_is_killed_is_not_there_by_halves(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    for name in "ab":
        (tmp_path / "step" / name).touch()
    run_until_killed(
        tmp_path / "step",
        "sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == 'os.remove' else None)\n"
        "files.remove_directory(path)\n",
    )
    assert not (tmp_path / "step").exists()
    files.remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    files.remove_directory(tmp_path / "step")  # gone already: nothing to do


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, host, parent = int(ended.stdout), files._HOST, os.getppid()
    gone = [f".run.{host}-{dead}.tmp", f".run.{host}-{dead}.old", f".a.txt.{host}-{os.getpid()}.tmp", ".00.7.tmp"]
    kept = [f".b.txt.{host}-{parent}.tmp", f".c.txt.abcdef-{dead}.tmp", ".d.tmp", ".hidden", "a.tmp", "b", ".e.1.tmp"]
    for folder in (tmp_path, tmp_path / "deep" / "er"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*gone, *kept):
            (folder / name).touch()
        for name in gone[:2]:
            (folder / name).unlink()
            (folder / name).mkdir()
            (folder / name / "a").touch()
        os.utime(folder / ".00.7.tmp", (0, 0))  # of an earlier version, and old
    files.remove_leftovers(tmp_path)
    files.remove_leftovers(tmp_path / "none")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*kept, "deep"])
    assert (tmp_path / "deep" / "er" / gone[0]).exists()
    files.remove_leftovers(tmp_path, deep=True)
    assert sorted(entry.name for entry in (tmp_path / "deep" / "er").iterdir()) == sorted(kept)


def test_a_process_is_known_to_run_or_not() -> None:
    assert files.runs(os.getpid())
    assert files.runs(os.getppid())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    assert not files.runs(int(ended.stdout))
    files.runs(999_999_999)  # no such number is an answer too, not an exception


# ---------------------------------------------------------------------------------------------------------- errors


def test_an_error_says_what_got_expected_and_what_to_do() -> None:
    error = UserError("rank is too small", got=0, expected="an integer >= 1", fix="raise it")
    assert str(error) == "rank is too small: got 0, expected an integer >= 1\n  raise it"
    assert str(UserError("no such file", got="a b")) == "no such file: got 'a b'"


def test_an_error_comes_whole_through_a_worker() -> None:
    error = UserError("what", got="x", expected="y", fix="z")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.got, back.fix) == (str(error), "x", "z")


def test_the_nearest_names_or_all() -> None:
    assert did_you_mean("rankk", ["rank", "alpha"]) == "did you mean 'rank'?"
    assert did_you_mean("zzz", ["rank", "alpha"]) == "known: alpha, rank"
