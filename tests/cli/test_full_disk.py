"""A disk that is full in the middle of a verb: one line, nothing half there, and what was there is whole."""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loraloom.cli import main
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.run import prepare
from loraloom.utils.atomic_files import whole_directory

SmallDisk = Callable[[str], Path]
pytestmark = pytest.mark.root


def sums(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def run_on_full_disk(
    arguments: list[str | Path], disk: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> str:
    """Run a verb that must fail for want of room; its error line, which names a place that is not temporary."""
    (disk / "kept.txt").write_text("kept", encoding="utf-8")
    before = sums(disk)
    monkeypatch.setattr(sys, "argv", ["loraloom", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = [line for line in said().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    assert "No space left on device" in lines[0]
    assert ".tmp" not in lines[0]
    after = sums(disk)
    assert {place: after.get(place) for place in before} == before
    left = [place for place in after if place.endswith((".tmp", ".lock")) or re.search(r"/\.[^/]*\.tmp/", place)]
    assert not left
    return lines[0]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that no compression makes smaller."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("noise") / "raw"
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    for number in range(12):
        pixels = torch.randint(0, 256, (72, 72, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"noise number {number}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def dataset(raw: Path) -> Path:
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
    prepare(raw, raw.parent / "dataset", settings, console=lambda line: None)
    return raw.parent / "dataset"


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet", "arrow_dataset"])
def test_an_export_of_a_dataset(
    layout: str, dataset: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    disk = small_disk("80k")
    run_on_full_disk(["dataset", "export", dataset, "--format", layout, "--out", disk / "o"], disk, monkeypatch, said)
    assert not (disk / "o").exists()


@pytest.mark.parametrize(
    "verb", [["convert", "--format", "kohya"], ["resize", "--rank", "2"], ["merge"]], ids=lambda verb: verb[0]
)
def test_a_tool_for_lora_files_leaves_the_file_that_it_was_to_replace(
    verb: list[str], adapter: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    disk = small_disk("16k")
    out = disk / "o.safetensors"
    out.write_bytes(b"old")
    place = [verb[0], adapter, *verb[1:]]
    line = run_on_full_disk(["lora", *place, "--out", out, "--overwrite"], disk, monkeypatch, said)
    assert str(out) in line
    assert out.read_bytes() == b"old"


def test_a_merge_into_a_base(
    adapter: Path, tiny_model: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    """safetensors has an error of its own for a full disk, which ended in a traceback."""
    disk = small_disk("900k")
    place = ["lora", "merge", adapter, "--into-base", "--model", tiny_model, "--out", disk / "o"]
    assert str(disk / "o") in run_on_full_disk(place, disk, monkeypatch, said)
    assert [entry.name for entry in disk.iterdir()] == ["kept.txt"]


def test_an_evaluation_of_images(
    raw: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    disk = small_disk("12k")
    place = ["evaluate", raw, "--reference", raw, "--metrics", "texture", "--out", disk / "o"]
    run_on_full_disk(place, disk, monkeypatch, said)


def test_an_inspection(
    raw: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    disk = small_disk("8k")
    run_on_full_disk(["inspect", raw, "--num-workers", "1", "--out", disk / "o"], disk, monkeypatch, said)


def test_captions_that_do_not_fit_leave_those_before(
    raw: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    pages = sum(-(-file.stat().st_size // 4096) for file in raw.iterdir())
    disk = small_disk(f"{4 * pages + 12}k")
    shutil.copytree(raw, disk / "raw")
    words = ["--captioner", "template", "--caption", "a {stem} " + "long " * 900, "--overwrite"]
    run_on_full_disk(["caption", disk / "raw", *words], disk, monkeypatch, said)


def test_a_library_that_says_a_full_disk_in_words_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as error, whole_directory(tmp_path / "out"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert error.value.filename == str(tmp_path / "out")
    with pytest.raises(RuntimeError, match="something else"), whole_directory(tmp_path / "out"):
        raise RuntimeError("something else")
    assert not list(tmp_path.iterdir())
