"""Parts of a folder, prepared by several machines, become the dataset that one machine makes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import INFO_FILE, JOURNAL_FILE, PARTS_FOLDER, read_manifest
from loraloom.prepare.joining import join_parts
from loraloom.prepare.parts import PART_FILE, prepare_part
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.utils.errors import UserError
from loraloom.utils.parts import Part
from tests.support.images import drawn, save

SETTINGS: dict[str, Any] = {"size": 64, "bucket_step": 16, "min_size": 32, "num_workers": 1, "trigger": "sks"}


def quiet(line: str) -> None:
    """Say nothing."""


def odd_source(folder: Path) -> Path:
    """Images with what a share of the work could get wrong: copies, mirrored images, bad files, missing texts."""
    for seed in range(14):
        save(drawn(seed), folder / "photos" / f"{seed:03d}.png", f"image {seed}")
    shutil.copy(folder / "photos" / "000.png", folder / "a copy.png")
    save(ImageOps.mirror(drawn(3)), folder / "mirrored.png", "the other way round")
    save(drawn(50, 24, 24), folder / "tiny.png", "too small")
    save(drawn(51, 60, 60), folder / "small.png", "smaller than the second size")
    save(drawn(52), folder / "no text.png")
    save(drawn(53), folder / "empty text.png", " ")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "note.pdf").write_bytes(b"%PDF-1.4")
    return folder


def files(dataset: Path) -> dict[str, bytes]:
    """All files of a dataset but the order of the journal and the time of making."""
    found = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("*") if path.is_file()}
    made = {name: path.read_bytes() for name, path in found.items() if name not in {".lock", "report.html"}}
    info = json.loads(made[INFO_FILE])
    page = (dataset / "report.html").read_text(encoding="utf-8").replace(info.pop("created"), "")
    journal = b"\n".join(sorted(made[JOURNAL_FILE].splitlines()))
    return {**made, INFO_FILE: json.dumps(info).encode(), JOURNAL_FILE: journal, "report.html": page.encode()}


def parts(source: Path, out: Path, number: int = 3, **changes: object) -> None:
    config = PrepareConfig(**{**SETTINGS, **changes})
    for place in range(number):
        prepare_part(source, out, Part(place + 1, number), config, console=quiet)


def join(source: Path, out: Path, *places: Path) -> PrepareReport:
    return join_parts(source, out, places, console=quiet)


@pytest.mark.parametrize("duplicates", ["keep", "exact", "near"])
def test_parts_become_byte_for_byte_what_one_machine_makes(tmp_path: Path, duplicates: str) -> None:
    source = odd_source(tmp_path / "raw")
    changes: dict[str, Any] = {"also_size": (96,), "duplicates": duplicates, "repeats": ("photos=2",)}
    prepare(source, tmp_path / "one", PrepareConfig(**{**SETTINGS, **changes}), console=quiet)
    parts(source, tmp_path / "shared", **changes)
    report = join(source, tmp_path / "shared")
    assert files(tmp_path / "shared") == files(tmp_path / "one")
    assert {problem.file for problem in report.problems} >= {"broken.png", "tiny.png", "note.pdf"}
    assert read_manifest(tmp_path / "shared").fingerprint == read_manifest(tmp_path / "one").fingerprint


def test_parts_of_machines_without_a_common_disk_are_joined_and_stay_where_they_are(tmp_path: Path) -> None:
    source = odd_source(tmp_path / "raw")
    prepare(source, tmp_path / "one", PrepareConfig(**SETTINGS), console=quiet)
    for number in (1, 2):
        copy = shutil.copytree(source, tmp_path / f"node{number}" / "raw")  # another path on every machine
        prepare_part(
            copy, tmp_path / f"node{number}" / "out", Part(number, 2), PrepareConfig(**SETTINGS), console=quiet
        )
    (tmp_path / "node2" / "out" / PARTS_FOLDER / "2-of-2").rename(tmp_path / "copied")
    before = files_below(tmp_path / "node1"), files_below(tmp_path / "copied")
    join(source, tmp_path / "joined", tmp_path / "node1" / "out", tmp_path / "copied")
    assert files(tmp_path / "joined") == files(tmp_path / "one")
    assert (files_below(tmp_path / "node1"), files_below(tmp_path / "copied")) == before


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_joined_dataset_is_continued_by_a_plain_prepare(tmp_path: Path) -> None:
    source = odd_source(tmp_path / "raw")
    parts(source, tmp_path / "out")
    joined = join(source, tmp_path / "out")
    save(drawn(90), source / "photos" / "new.png", "one more")
    again = prepare(source, tmp_path / "out", PrepareConfig(**SETTINGS), console=quiet)
    assert again.num_reused == len(joined.manifest.examples)
    assert len(again.manifest.examples) == len(joined.manifest.examples) + 1


def test_a_captioner_is_asked_by_the_machine_of_the_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = odd_source(tmp_path / "raw")
    parts(source, tmp_path / "out", caption_template="seen on {stem}")
    monkeypatch.setattr("loraloom.prepare.captioner_files.Asker.text", None)
    captions = {example.id: example.caption for example in join(source, tmp_path / "out").manifest.examples}
    assert captions["no text"] == "sks, seen on no text"


def break_settings(out: Path, source: Path) -> None:
    prepare_part(source, out, Part(2, 3), PrepareConfig(**{**SETTINGS, "size": 96}), console=quiet)


def break_source(out: Path, source: Path) -> None:
    (source / "photos" / "000.txt").write_text("another text", encoding="utf-8")
    for number in (1, 3):
        prepare_part(source, out, Part(number, 3), PrepareConfig(**SETTINGS), console=quiet)


def break_image(out: Path, source: Path) -> None:
    next((out / PARTS_FOLDER / "2-of-3").rglob("*.png")).write_bytes(b"cut off while it was copied")


def break_journal(out: Path, source: Path) -> None:
    file = out / PARTS_FOLDER / "2-of-3" / JOURNAL_FILE
    file.write_text("\n".join(file.read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")


def pipe_for_image(out: Path, source: Path) -> None:
    image = next((out / PARTS_FOLDER / "2-of-3").rglob("*.png"))
    image.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(image)
    else:
        image.mkdir()


def strange_settings(out: Path, source: Path) -> None:
    for file in (out / PARTS_FOLDER).rglob(PART_FILE):
        record = json.loads(file.read_text(encoding="utf-8"))
        record["settings"]["sizee"] = 64
        file.write_text(json.dumps(record), encoding="utf-8")


def strange_record(out: Path, source: Path) -> None:
    (out / PARTS_FOLDER / "2-of-3" / PART_FILE).write_text('{"number": "2"}', encoding="utf-8")


def remove_part(out: Path, source: Path) -> None:
    shutil.rmtree(out / PARTS_FOLDER / "2-of-3")


def kill_part(out: Path, source: Path) -> None:
    (out / PARTS_FOLDER / "2-of-3" / PART_FILE).unlink()


def other_division(out: Path, source: Path) -> None:
    prepare_part(source, out, Part(2, 4), PrepareConfig(**SETTINGS), console=quiet)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (break_settings, "part 2/3 has other settings than the others: got 'size=96 for 64'"),
        (break_source, "part 2/3 was made of other images or texts"),
        (break_image, "part 2/3 cannot be used: images/"),
        (break_journal, "part 2/3 cannot be used: its .prepare.jsonl is not what was written"),
        (pipe_for_image, "part 2/3 cannot be used: images/"),
        (strange_settings, "sizee"),
        (strange_record, "part.json"),
        (remove_part, "1 part is missing: 2/3"),
        (kill_part, "2-of-3 is not finished"),
        (other_division, "parts of several divisions"),
    ],
)
def test_a_part_that_cannot_be_joined_is_refused_by_name_and_the_others_stay(
    tmp_path: Path, harm: Callable[[Path, Path], None], said: str
) -> None:
    source, out = odd_source(tmp_path / "raw"), tmp_path / "out"
    parts(source, out)
    harm(out, source)
    with pytest.raises(UserError) as caught:
        join(source, out)
    assert said in str(caught.value)
    assert (out / PARTS_FOLDER / "1-of-3" / PART_FILE).is_file()
    with pytest.raises(UserError):
        read_manifest(out)


def test_a_part_that_was_killed_is_continued(tmp_path: Path) -> None:
    source, out = odd_source(tmp_path / "raw"), tmp_path / "out"
    parts(source, out)
    kill_part(out, source)
    lines: list[str] = []
    prepare_part(source, out, Part(2, 3), PrepareConfig(**SETTINGS), console=lines.append)
    join(source, out)
    prepare(source, tmp_path / "one", PrepareConfig(**SETTINGS), console=quiet)
    assert files(out) == files(tmp_path / "one")


def test_more_parts_than_images_are_no_error(tmp_path: Path) -> None:
    source = save(drawn(1), tmp_path / "raw" / "one.png", "the only one").parent
    parts(source, tmp_path / "out", 3)
    assert len(join(source, tmp_path / "out").manifest.examples) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "1/100000", "-1/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--part"):
        Part.read(text)
