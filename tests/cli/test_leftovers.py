"""What a killed process left half written is gone after the next start of the same verb, and files of the user stay."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loraloom.cli import main

NAMES = ("problems.jsonl", "report.html", "00000.png")


def dead_number() -> int:
    """Number of a process that has ended."""
    return int(
        subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True).stdout
    )


def leave(folder: Path, names: tuple[str, ...] = NAMES) -> list[Path]:
    """Temporary files and one folder of a killed process, as it would have named them; and files of the user beside them."""
    from loraloom.utils import atomic_files

    folder.mkdir(parents=True, exist_ok=True)
    host, number = atomic_files._HOST, dead_number()  # pyright: ignore[reportPrivateUsage]
    left = [folder / f".{name}.{host}-{number}.tmp" for name in names]
    for path in left[:-1]:
        path.write_text("half", encoding="utf-8")
    left[-1].mkdir()
    (left[-1] / "half").touch()
    for name in (".hidden.tmp", ".notes.old", "mine.tmp"):
        (folder / name).write_text("mine", encoding="utf-8")
    return left


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["loraloom", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def check(folder: Path, left: list[Path]) -> None:
    assert not [path for path in left if path.exists()]
    assert all((folder / name).is_file() for name in (".hidden.tmp", ".notes.old", "mine.tmp"))


@pytest.fixture
def raw(tmp_path: Path, draw_folder: object) -> Path:
    return draw_folder(tmp_path / "raw", 3)  # type: ignore[operator]


def test_prepare_sweeps_its_folder_and_the_images_below_it(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    settings = ["--size", "64", "--min-size", "16", "--num-workers", "1"]
    run(monkeypatch, "prepare", raw, "--out", out, *settings)
    left = [*leave(out), *leave(out / "images")]
    run(monkeypatch, "prepare", raw, "--out", out, *settings)
    check(out, left)


def test_evaluate_sweeps_its_folder(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "scores"
    run(monkeypatch, "evaluate", raw, "--reference", raw, "--metrics", "texture", "--out", out)
    left = leave(out)
    run(monkeypatch, "evaluate", raw, "--reference", raw, "--metrics", "texture", "--out", out)
    check(out, left)


def test_generate_sweeps_its_folder(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "images"
    left = leave(out)
    size = ["--steps", "1", "--width", "32", "--height", "32"]
    run(monkeypatch, "generate", "a plan", "--adapter", adapter, "--out", out, *size)
    check(out, left)


def test_caption_sweeps_its_store_and_the_folder_that_it_writes_into(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--captioner", "template", "--caption", "a {stem}", "--overwrite", "--write-files"]
    run(monkeypatch, "caption", raw, *words)
    left = [*leave(raw, ("000.txt", "001.txt")), *leave(raw / ".captions", ("current.json", "kept"))]
    run(monkeypatch, "caption", raw, *words)
    check(raw, left)


def test_a_tool_for_lora_files_sweeps_what_was_left_of_the_same_file(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no folder of its own: what is beside the file and was to be another file is not its."""
    out = tmp_path / "o.safetensors"
    (mine,), (others,) = leave(tmp_path, (out.name,)), leave(tmp_path, ("other.safetensors",))
    run(monkeypatch, "lora", "merge", adapter, "--out", out)
    check(tmp_path, [mine])
    assert others.exists()
    shutil.rmtree(others)
