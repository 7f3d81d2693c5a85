"""Two processes never write into one folder; a crash lets go of it; no lock is no end."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.run import prepare
from loraloom.utils import locks
from loraloom.utils.errors import UserError
from loraloom.utils.locks import LOCK_NAME, lock_folder, refuse_if_held

HOLD = """
import sys, time
from pathlib import Path
from loraloom.utils.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_process_holds_is_refused_with_its_number_and_host(tmp_path: Path) -> None:
    process = holding(tmp_path / "run")
    try:
        with pytest.raises(UserError) as refused, lock_folder(tmp_path / "run"):
            pass
        text = str(refused.value)
        assert f"process {process.pid} on {socket.gethostname()}" in text
        assert str(tmp_path / "run") in text
    finally:
        process.communicate("")
    (tmp_path / "run").mkdir(exist_ok=True)
    with lock_folder(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir()), "nothing is left of a lock"
    with lock_folder(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists(), "a folder that was made for nothing goes again"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = holding(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert (tmp_path / LOCK_NAME).is_file()
    with lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_NAME).read_text(encoding="utf-8")
    assert not (tmp_path / LOCK_NAME).exists()


def test_an_exception_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock_folder(tmp_path):
        raise RuntimeError
    with lock_folder(tmp_path), pytest.raises(UserError, match="another process is at work"), lock_folder(tmp_path):
        pass


def test_where_locks_are_unknown_one_warning_is_said_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", unknown)
    said: list[str] = []
    with lock_folder(tmp_path, said.append):
        pass
    assert len(said) == 1
    assert "cannot be locked (No locks available)" in said[0]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine", encoding="utf-8")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"\.lock"), lock_folder(tmp_path):
        pass
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    """Workers of a killed `prepare` live a moment longer: the same command at once was refused."""
    program = """
import os, signal, sys, time
from pathlib import Path
from loraloom.utils.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    parent, worker = os.getpid(), os.fork()
    if not worker:
        print(os.getpid(), flush=True)
        os.kill(parent, signal.SIGKILL)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.wait(60)
    try:
        with lock_folder(tmp_path):
            os.kill(worker, 0)  # it lives
    finally:
        os.kill(worker, signal.SIGKILL)


def test_prepare_is_refused_where_another_process_works_and_begins_where_one_was_killed(
    tmp_path: Path, draw_folder: Callable[..., Path]
) -> None:
    source, out = draw_folder(tmp_path / "raw", 3), tmp_path / "out"
    settings = PrepareConfig(size=64, min_size=16, num_workers=1)
    process = holding(out)
    with pytest.raises(UserError, match="another process is at work"):
        prepare(source, out, settings, console=lambda text: None)
    process.kill()  # its lock's file stays, alone in the folder
    process.wait(60)
    assert len(prepare(source, out, settings, console=lambda text: None).manifest.examples) == 3


@pytest.mark.root
def test_a_full_disk_ends_prepare_in_one_error_and_the_next_run_goes_on(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(noise).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text("a", encoding="utf-8")
    out = small_disk("256k") / "out"
    settings = PrepareConfig(size=128, min_size=16, num_workers=1)
    with pytest.raises((UserError, OSError), match="No space left on device"):
        prepare(source, out, settings, console=lambda text: None)
    assert not (out / "manifest.jsonl").exists(), "half a dataset is none"
    assert not list(out.rglob("*.tmp"))
    assert not (out / ".lock").exists()
    made = len(list(out.rglob("*.png")))
    assert made >= 1
    subprocess.run(["mount", "-o", "remount,size=8m", str(out.parent)], check=True)
    report = prepare(source, out, settings, console=lambda text: None)
    assert (len(report.manifest.examples), report.num_reused >= made - 1) == (8, True)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_folder_that_was_removed_is_held_again_with_one_warning(tmp_path: Path) -> None:
    """`rm -rf OUT` during a run: the folder was made again in silence and nobody held it."""
    said: list[str] = []
    with lock_folder(tmp_path / "run", said.append) as lock:
        assert not lock.renew()
        shutil.rmtree(tmp_path / "run")
        assert lock.renew()
        assert not lock.renew()
        (line,) = said
        assert line.startswith(f"warning: {tmp_path / 'run'} was removed")
        with pytest.raises(UserError, match="another process is at work"), lock_folder(tmp_path / "run"):
            pass
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_folder_that_another_process_made_anew_is_left_to_it(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run") as lock:
        shutil.rmtree(tmp_path / "run")
        process = holding(tmp_path / "run")
        try:
            with pytest.raises(UserError, match=f"process {process.pid} on "):
                lock.renew()
            (tmp_path / "run" / "theirs").touch()
        finally:
            process.communicate("")
    assert (tmp_path / "run" / "theirs").exists()


def test_asking_whether_a_folder_is_held_leaves_nothing(tmp_path: Path) -> None:
    refuse_if_held(tmp_path / "none")
    refuse_if_held(tmp_path)
    assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on "):
        refuse_if_held(tmp_path)
    (tmp_path / LOCK_NAME).touch()  # of a killed process
    refuse_if_held(tmp_path)
    with lock_folder(tmp_path):
        pass
