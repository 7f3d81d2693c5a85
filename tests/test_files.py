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

from loraloom import files
from loraloom.errors import UserError, did_you_mean


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
    with pytest.raises(OSError, match="No space left"):
        files.write_text(file, "new")
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
    known = "import os, signal, sys\nfrom pathlib import Path\nfrom loraloom import files\npath = Path(sys.argv[1])\n"
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


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run.1.tmp", ".run.1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    for name in (".a.txt.1.tmp", ".hidden", "a.tmp", "b"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    files.remove_leftovers(tmp_path / "none")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "a.tmp", "b"]


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
