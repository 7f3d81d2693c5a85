"""`loraloom evaluate` as typed: what is printed, what is JSON, and what a mistake costs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loraloom.cli.app import app
from loraloom.cli.evaluate_command import Named, given_options
from loraloom.utils.errors import UserError
from tests.generate.conftest import adapter, make_adapter
from tests.support.images import drawn, folder_of, save

__all__ = ["adapter", "make_adapter"]

FLAGS = (
    "--sweep",
    "--scales",
    "--metrics",
    "--extractor",
    "--num-seeds",
    "--copy-bits",
    "--reference",
    "--lora",
    "--json",
)


def test_help_names_the_flags_of_settings_and_of_metrics_and_never_imports_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom loraloom.cli.app import app\n"
        "shown = CliRunner().invoke(app, ['evaluate', '--help'])\nassert shown.exit_code == 0\n"
        f"assert all(flag in shown.output for flag in {FLAGS!r}), shown.output\n"
        "heavy = {'torch', 'transformers', 'scipy'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        save(drawn(number, 32, 32), folder / f"{number}.png", f"image {number}")
    return folder


def test_json_is_all_of_stdout_and_what_scores_json_holds(images: Path, tmp_path: Path) -> None:
    command = [
        "evaluate", str(images), "--reference", str(folder_of(tmp_path / "real", 5)), "--out", str(tmp_path / "out"),
        "--extractor", "builtin:mini", "--metrics", "clip_score,fid", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))


def test_the_table_has_a_row_for_each_score_and_a_sentence_for_what_says_nothing(images: Path, tmp_path: Path) -> None:
    command = [
        "evaluate", str(images), "--reference", str(folder_of(tmp_path / "real", 5)), "--out", str(tmp_path / "out"),
        "--extractor", "builtin:mini", "--metrics", "clip_score,kid,fid",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = done.stdout.splitlines()
    assert [row.split("  ")[0] for row in rows[:4]] == ["score", "CLIP score", "CLIP cosine", "KID"]
    assert "FID of 5 images says nothing: it needs 2,000 of each set" in rows
    assert not any(row.startswith("FID ") and "says nothing" not in row for row in rows)
    assert "builtin:mini (sha256 " in done.stdout


def test_an_adapter_in_the_place_of_the_images_is_a_run(adapter: Path, images: Path) -> None:
    assert given_options(Named(images=adapter)).lora == adapter
    file = adapter / "adapter.safetensors"
    assert given_options(Named(images=file)).lora == file
    assert given_options(Named(images=images)).images == images
    assert given_options(Named(lora=adapter)).out == adapter / "evaluation"


def test_nothing_to_score_and_two_things_to_score_are_one_line(adapter: Path, images: Path) -> None:
    with pytest.raises(UserError, match="nothing to score"):
        given_options(Named())
    with pytest.raises(UserError, match="images and a run were both named"):
        given_options(Named(images=images, lora=adapter))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"sweep": Path("a"), "lora": Path("b")}, "--sweep and something else to score were both named"),
        ({"sweep": Path("a"), "images": Path("b")}, "a sweep generates its own images"),
        ({"images": Path("a"), "prompts_file": Path("b")}, "--prompts-file is for a run that generates images"),
        ({"lora": Path("a"), "add_triggers": True}, "--add-triggers is for prompts of a file"),
    ],
)
def test_options_that_exclude_each_other_are_one_line(named: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        given_options(Named(**named))
    assert words in str(caught.value)


def test_a_sweep_of_a_run_has_a_folder_of_its_own(adapter: Path) -> None:
    options = given_options(Named(sweep=adapter))
    assert (options.lora, options.out) == (adapter, adapter / "sweep")


def test_a_setting_of_a_sweep_without_a_sweep_is_a_line(images: Path, tmp_path: Path) -> None:
    command = [
        "evaluate", str(images), "--out", str(tmp_path / "out"), "--extractor", "builtin:mini", "--metrics", "clip_score",
        "--scales", "0.5", "--rank-by", "auto",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "note: --scales is not used without --sweep RUN" in done.output.splitlines()
    assert "--rank-by is not used" not in done.output, "auto is the default"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_give_the_scores_of_one_and_leave_the_same_images(adapter: Path, tmp_path: Path) -> None:
    real = folder_of(tmp_path / "real", 5)
    for number in range(5):
        (real / f"{number}.txt").write_text(f"an image, number {number}", encoding="utf-8")
    command = [
        *("evaluate", "--lora", str(adapter), "--reference", str(real), "--extractor", "builtin:mini"),
        *(
            "--metrics",
            "clip_score,drift",
            "--num-prompts",
            "2",
            "--num-seeds",
            "3",
            "--steps",
            "1",
            "--batch-size",
            "2",
        ),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    scores: list[dict[str, Any]] = []
    for name, more in (("one", []), ("two", ["--num-processes", "2"])):
        ran = subprocess.run(
            [sys.executable, "-m", "loraloom", *command, "--out", str(tmp_path / name), *more],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ("images generated by 2 processes" in ran.stderr) == bool(more)
        scores.append(json.loads((tmp_path / name / "scores.json").read_text(encoding="utf-8")))
    images = [sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*.png")) for n in ("one", "two")]
    assert images[0] == images[1]
    assert not list(tmp_path.rglob(".rank_*"))
    for one, two in zip(scores[0]["scores"], scores[1]["scores"], strict=True):
        assert one["value"] == pytest.approx(two["value"], abs=1e-2)
        assert one["count"] == two["count"]


def test_processes_are_refused_where_there_is_nothing_to_generate(images: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(images), "--num-processes", "2", "--out", str(tmp_path / "out")])
    assert "--num-processes is for a run that generates its images" in str(done.exception or done.output)
