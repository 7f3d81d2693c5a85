"""From a raw folder to a dataset, through kills, bad files and second thoughts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import JOURNAL_FILE, MANIFEST_FILE, read_manifest
from loraloom.prepare.caption_edits import final_caption
from loraloom.prepare.images import ImageSettings
from loraloom.prepare.pool import FEW
from loraloom.prepare.run import PrepareReport, prepare
from loraloom.prepare.workers import Task, run_tasks
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from tests.support.images import bomb_png, drawn, encoded, folder_of, save, shared_data


def run(source: Path, out: Path, **changes: object) -> PrepareReport:
    settings = {"size": 64, "bucket_step": 16, "min_size": 32, "num_workers": 1, **changes}
    return prepare(source, out, PrepareConfig(**settings), console=lambda line: None)


def sums(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_a_dataset_holds_every_image_with_true_sums_and_the_source_is_untouched(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "raw", 12), tmp_path / "out"
    before = sums(source)
    report = run(source, out)
    back = read_manifest(out)
    assert back.examples == report.manifest.examples
    assert [example.id for example in back.examples] == [f"{seed:03d}" for seed in range(12)]
    for example in back.examples:
        assert sha256_file(out / example.image) == example.sha256
        assert sha256_file(source / f"{example.id}.png") == example.source_sha256
        with Image.open(out / example.image) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (example.width, example.height))
    assert len(back.split("validation")) == 1
    assert sums(source) == before


def test_two_workers_make_the_same_dataset_as_one(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "raw", 20)
    one, two = run(source, tmp_path / "one"), run(source, tmp_path / "two", num_workers=2)
    assert one.manifest.examples == two.manifest.examples
    assert one.manifest.fingerprint == two.manifest.fingerprint
    assert (tmp_path / "one" / MANIFEST_FILE).read_bytes() == (tmp_path / "two" / MANIFEST_FILE).read_bytes()


def test_every_bad_file_is_named_at_once_and_the_good_ones_are_used(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "raw", 3)
    (source / "cut.jpg").write_bytes(encoded(drawn(9), "JPEG")[:900])
    (source / "empty.png").touch()
    (source / "words.png").write_text("I am a text", encoding="utf-8")
    (source / "bomb.png").write_bytes(bomb_png())
    (source / "drawing.svg").write_text("<svg/>", encoding="utf-8")
    (source / "alone.txt").write_text("where is my image", encoding="utf-8")
    save(drawn(8, 1, 1), source / "dot.png")
    save(drawn(7), source / "korean.png").with_suffix(".txt").write_bytes("왼쪽".encode("cp949"))
    report = run(source, tmp_path / "out")
    found = {problem.file: problem.reason for problem in report.problems}
    assert sorted(found) == [
        "alone.txt", "bomb.png", "cut.jpg", "dot.png", "drawing.svg", "empty.png", "korean.png", "words.png",
    ]  # fmt: skip
    assert "truncated" in found["cut.jpg"]
    assert "not UTF-8" in found["korean.png"]
    lines = (tmp_path / "out" / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == sorted(found)
    assert len(report.manifest.examples) == 3
    assert "3,600 megapixels" in report.page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="8 files cannot be used, and --strict is on"):
        run(source, tmp_path / "strict", strict=True)
    assert len((tmp_path / "strict" / "problems.jsonl").read_text(encoding="utf-8").splitlines()) == 8


def test_no_usable_image_is_an_error_that_shows_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.png: the file is empty"):
        run(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(UserError, match="not finished"):
        read_manifest(tmp_path / "out")


def test_a_second_run_keeps_what_is_right_and_makes_the_rest_anew(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "raw", 10), tmp_path / "out"
    first = run(source, out)
    assert run(source, out).num_reused == 10
    save(drawn(99), source / "003.png")
    (source / "004.txt").write_text("another caption", encoding="utf-8")
    (source / "005.png").unlink()
    (source / "005.txt").unlink()
    (out / "images" / "006.png").write_bytes(b"damaged")
    folder_of(source, 1, first=20)
    second = run(source, out)
    assert second.num_reused == 7
    rows = {example.id: example for example in second.manifest.examples}
    assert rows["003"].sha256 != {example.id: example for example in first.manifest.examples}["003"].sha256
    assert rows["004"].caption == "another caption"
    assert "005" not in rows
    assert not (out / "images" / "005.png").exists()
    assert sha256_file(out / "images" / "006.png") == rows["006"].sha256
    assert "020" in rows


def test_other_settings_in_the_same_folder_redo_every_image(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "raw", 4), tmp_path / "out"
    run(source, out)
    report = run(source, out, size=96)
    assert report.num_reused == 0
    assert report.manifest.examples == run(source, tmp_path / "fresh", size=96).manifest.examples


KILLED = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.run import prepare

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

config = PrepareConfig(size=64, bucket_step=16, min_size=32, num_workers=2)
prepare(Path(sys.argv[1]), Path(sys.argv[2]), config, console=lambda line: None, progress=progress)
"""


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
def test_a_run_that_is_killed_goes_on_where_it_was_and_leaves_no_worker_behind(tmp_path: Path, kind: str) -> None:
    source, out = folder_of(tmp_path / "raw", 60), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(source), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            break
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, getattr(signal, kind))
    process.stdout.close()
    assert process.wait(20) != 0
    with pytest.raises(UserError, match="not finished"):
        read_manifest(out)
    with (out / JOURNAL_FILE).open("a", encoding="utf-8") as journal:
        journal.write('{"id": "cut in the mid')  # what a kill in the middle of a line leaves
    report = run(source, out)
    assert 20 <= report.num_reused < 60
    assert report.manifest.examples == run(source, tmp_path / "fresh").manifest.examples
    deadline = time.monotonic() + 10
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    assert not list(out.rglob("*.tmp"))


def test_a_mirrored_near_duplicate_is_never_on_the_other_side_of_the_split(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for seed in range(12):
        save(drawn(seed, 200, 150), source / f"{seed}.png", "one")
        mirrored = drawn(seed, 200, 150).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 75))
        save(mirrored, source / f"{seed}-copy.jpg", "other")
    for seed in range(3):
        for crop in ("bucket", "center", "random", "pad"):
            report = run(source, tmp_path / f"{crop}{seed}", validation_share=0.3, seed=seed, crop=crop)
            sides = {example.id: example.split for example in report.manifest.examples}
            assert all(sides[str(n)] == sides[f"{n}-copy"] for n in range(12))
            assert sum(side == "validation" for side in sides.values()) == 6
            assert report.num_duplicates == 24


def test_fewer_than_ten_images_are_all_learned_from_and_said_so_unless_a_share_is_asked_for(tmp_path: Path) -> None:
    source, said = folder_of(tmp_path / "raw", 9), list[str]()
    settings = PrepareConfig(size=64, bucket_step=16, min_size=32, num_workers=1)
    report = prepare(source, tmp_path / "a", settings, console=said.append)
    assert not report.manifest.split("validation")
    assert "  nothing is held out of fewer than 10 images; --validation-share asks for it" in said
    assert len(run(source, tmp_path / "b", validation_share=0.25).manifest.split("validation")) == 2
    folder_of(source, 1, first=9)
    assert len(run(source, tmp_path / "a").manifest.split("validation")) == 1


def test_images_to_look_at_are_counted_on_the_terminal_with_their_reasons(tmp_path: Path) -> None:
    source, said = tmp_path / "raw", list[str]()
    for number in range(2):
        save(drawn(number, 24 + number, 24), source / f"small{number}.png", "small")
    save(drawn(3, 640, 64), source / "wide.png", "wide")
    save(drawn(4), source / "fine.png", "fine")
    settings = PrepareConfig(size=64, min_size=16, crop="center", num_workers=1, strict=True)
    prepare(source, tmp_path / "out", settings, console=said.append)
    assert "  3 images are used, but look at them: 2 x enlarged more than 2 times; 1 x more than 30% is cut off" in said


def test_what_a_kill_left_is_swept_at_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    source, out = folder_of(tmp_path / "raw", 2), tmp_path / "out"
    run(source, out)
    left = [
        out / ".problems.jsonl.999999999.tmp",
        out / ".manifest.jsonl.999999998.tmp",
        out / "images/.0a1b2c3d.999999997.tmp",
    ]
    kept = [out / "mine.tmp", out / "images/notes.tmp", out / ".hidden"]
    for path in (*left, *kept):
        path.write_text("x", encoding="utf-8")
    (source / "000.txt").unlink()
    with pytest.raises(UserError, match="--strict"):  # an error later on sweeps too
        run(source, out, strict=True, caption_template="a photo")
    assert [path.exists() for path in left] == [False] * 3
    assert [path.exists() for path in kept] == [True] * 3


@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        (" a dog.\n\n[Rooms]  \n x \n", "", "a dog.\n\n[Rooms]  \n x"),
        ("a dog", "sks", "sks, a dog"),
        ("a sks dog", "sks", "a sks dog"),
        ("a sksdog", "sks", "sks, a sksdog"),
        ("a SKS dog", "sks", "sks, a SKS dog"),
        ("plan (v1.0)", "v1.0", "plan (v1.0)"),
        ("", "sks", "sks"),
    ],
)
def test_the_trigger_is_put_before_a_caption_that_lacks_it_as_a_word(text: str, trigger: str, expected: str) -> None:
    assert final_caption(text, trigger) == expected
    assert final_caption(expected, trigger) == expected


def test_images_without_text_get_the_captioners_and_blank_texts_are_noted(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    save(drawn(1), source / "red_vase" / "one.png")
    save(drawn(2), source / "red_vase" / "two.png", " \n")
    save(drawn(3), source / "red_vase" / "zebra.png", "sks zebra")
    report = run(source, tmp_path / "out", trigger="sks", caption_template="a photo of {trigger} {folder}")
    assert [example.caption for example in report.manifest.examples] == ["a photo of sks red vase"] * 2 + ["sks zebra"]
    assert [example.caption_found for example in report.manifest.examples] == [None, None, "sks zebra"]
    assert [(note.file, note.reason) for note in report.notes] == [
        ("red_vase/one.png", "no caption: it gets 'a photo of sks red vase'"),
        ("red_vase/two.png", "its text is empty: captioned by template"),
        ("red_vase/two.png", "no caption: it gets 'a photo of sks red vase'"),
    ]
    # The word --caption alone puzzled who had given captions to all images but one.
    told = r"red_vase/one\.png has no caption, and template cannot write one: .* there is no trigger word"
    with pytest.raises(UserError, match=told):
        run(source, tmp_path / "none")


def test_the_output_may_not_lie_where_it_would_be_read_or_where_others_have_files(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "raw", 2)
    for out, what in ((source, "own source"), (source / "deep" / "out", "own source")):
        with pytest.raises(UserError, match=what):
            run(source, out)
    other = tmp_path / "other"
    save(drawn(1), other / "images" / "mine.png")
    with pytest.raises(UserError, match="not empty"):
        run(source, other)
    assert (other / "images" / "mine.png").exists()
    nested = folder_of(tmp_path / "ds" / "images" / "raw", 2)
    with pytest.raises(UserError, match="where prepared images go"):
        run(nested, tmp_path / "ds")


def test_the_report_is_one_file_that_runs_nothing_and_calls_nobody(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    save(drawn(1), source / "a.png", '<script>alert(1)</script> & "quotes" ]]> <img src=x onerror=y>')
    page = run(source, tmp_path / "out").page.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "onerror=y>" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert str(tmp_path) not in page


def test_hostile_names_stay_inside_the_dataset_and_every_image_keeps_its_own_file(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    names = ["a:b", "a_b", "con", "..hidden", "dots...", "한글 이름", "x" * 200, "deep/er/one", "$(touch x)", "%2e%2e"]
    for seed, name in enumerate(names):
        save(drawn(seed), source / f"{name}.png", f"caption {seed}")
    report = run(source, tmp_path / "out")
    images = [example.image for example in report.manifest.examples]
    assert len({image.casefold() for image in images}) == len(images) == len(names) - 1  # ..hidden is a hidden file
    for image in images:
        assert (tmp_path / "out" / image).resolve().is_relative_to(tmp_path / "out" / "images")
        assert not set(image) & set('<>:"|?*\\')


def test_token_counts_are_those_of_the_final_caption(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "raw", 2)
    config = PrepareConfig(size=64, bucket_step=16, trigger="sks")
    report = prepare(
        source, tmp_path / "out", config, count_tokens=lambda text: len(text.split()), console=lambda _: None
    )
    assert [example.num_tokens for example in report.manifest.examples] == [3, 3]


def test_real_photographs_and_plans_are_prepared_whole(tmp_path: Path) -> None:
    photographs = run(shared_data("dreambooth"), tmp_path / "a", trigger="sks", caption_template="a {trigger} {folder}")
    assert {problem.file for problem in photographs.problems} == {
        "prompts_and_classes.txt", "references_and_licenses.txt",
    }  # fmt: skip
    assert len(photographs.manifest.examples) == 42
    assert photographs.manifest.examples[-1].caption == "a sks vase"
    plans = run(shared_data("sjh"), tmp_path / "b", size=256, resample="nearest")
    found = (shared_data("sjh") / "3.txt").read_text(encoding="utf-8")
    assert plans.manifest.examples[-1].caption_found == found
    assert plans.manifest.examples[-1].caption == found.strip()


def test_a_split_that_the_source_brings_is_kept(tmp_path: Path, draw_folder: Callable[..., Path]) -> None:
    source = draw_folder(tmp_path / "source", 6)
    names = sorted(path.stem for path in source.glob("*.png"))
    sides = {"train": names[:3], "validation": names[3:], "made_by": "somebody"}
    (source / "splits.json").write_text(json.dumps(sides), encoding="utf-8")
    said: list[str] = []
    report = prepare(source, tmp_path / "out", PrepareConfig(size=64, min_size=16, num_workers=1), console=said.append)
    assert [example.id for example in report.manifest.split("validation")] == names[3:]
    assert any("splits.json" in line for line in said)
    (source / "splits.json").write_text(json.dumps({"train": names, "validation": names[:1]}), encoding="utf-8")
    with pytest.raises(UserError, match="both sides"):
        prepare(source, tmp_path / "again", PrepareConfig(size=64, min_size=16, num_workers=1), console=said.append)


class _Killer(type(Path())):
    """A path whose arrival in another process is the end of that process."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:  # type: ignore[override]
        return os._exit, (9,)


@pytest.mark.parametrize("shares", [64, 1], ids=["sent alone", "sent together"])
def test_two_images_that_kill_their_workers_do_not_cost_the_others(
    tmp_path: Path, shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last two died, those that were finished before were forgotten and `prepare` gave up."""
    monkeypatch.setattr("loraloom.prepare.pool.SHARES_PER_WORKER", shares)
    names = [f"{number}.png" for number in range(FEW + 4)]
    sources = [save(drawn(number), tmp_path / name) for number, name in enumerate(names)]
    out = tmp_path / "out"
    tasks = [
        Task(id=name, source=source, folder=out, image=name, known=None, thumbnail=False)
        for name, source in zip(names, sources, strict=True)
    ]
    tasks[-2:] = [replace(task, source=_Killer(task.source)) for task in tasks[-2:]]
    settings = ImageSettings.from_config(PrepareConfig(size=64, min_size=16))
    problems = {outcome.task.id: outcome.problem for outcome in run_tasks(tasks, settings, 2)}
    assert len(problems) == len(tasks)
    assert {id_ for id_, problem in problems.items() if problem} == {tasks[-2].id, tasks[-1].id}
    assert problems[tasks[-1].id] == "the decoder crashed on it"


class _Sleeper(type(Path())):
    """A path whose arrival in another process keeps that process busy for an hour."""

    def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:  # type: ignore[override]
        return time.sleep, (3600.0,)


@pytest.mark.long
def test_an_image_that_never_ends_is_refused_and_the_others_are_done(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(FEW + 4)]
    sources = [save(drawn(number), tmp_path / name) for number, name in enumerate(names)]
    out = tmp_path / "out"
    tasks = [
        Task(id=name, source=source, folder=out, image=name, known=None, thumbnail=False)
        for name, source in zip(names, sources, strict=True)
    ]
    tasks[3] = replace(tasks[3], source=_Sleeper(tasks[3].source))
    settings = ImageSettings.from_config(PrepareConfig(size=64, min_size=16))
    outcomes = list(run_tasks(tasks, settings, 2, time_limit_s=8.0))
    assert sorted(outcome.task.id for outcome in outcomes) == sorted(names)
    assert {one.task.id: one.problem for one in outcomes if one.problem} == {
        "3.png": "it takes longer than 8 s to decode"
    }
