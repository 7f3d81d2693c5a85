"""`evaluate --sweep`: every checkpoint at every scale with the same seeds, resumed where it stopped, and what to keep."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loraloom.cli.evaluate_command import sweep_lines
from loraloom.config.evaluate import EvaluateConfig
from loraloom.config.reading import read_settings
from loraloom.evaluate.run import EvaluateOptions
from loraloom.evaluate.sweep import Sweep, sweep
from loraloom.evaluate.sweep_report import RECORD_FILE, REPORT_FILE, SHEET_FILE, write_sweep
from loraloom.generate.recipes import read_rows
from loraloom.lora.blend import parse_lora_option
from loraloom.utils.errors import UserError
from tests.generate.conftest import MakeAdapter

QUICK = {
    "extractor": "builtin:mini",
    "num_prompts": 3,
    "steps": 1,
    "sweep.scales": "0.5,1",
    "sweep.num_unrelated": 4,
    "sweep.ema": "0.2",
}
STEPS = (10, 20, 30)
RunSweep = Callable[..., Sweep]


def quiet(title: str) -> Callable[[int, int], None]:
    return lambda done, total: None


def run_sweep(run: Path, out: Path, said: list[str] | None = None, **given: Any) -> Sweep:
    """A sweep with quick settings; `bar` and fields of `EvaluateOptions` may be given beside settings."""
    bar = given.pop("bar", quiet)
    named = {"images": None, "lora": run, "reference": None, "base": None, "domain": None, "out": out}
    named |= {name: given.pop(name) for name in list(given) if name in (*named, "prompts_file", "add_triggers")}
    config = read_settings(EvaluateConfig, values={**QUICK, **given})
    return sweep(config, EvaluateOptions(**named), (said if said is not None else []).append, bar)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter, dataset: Path) -> Path:
    """A run with three checkpoints of the tiny model, and its settings."""
    folder = tmp_path_factory.mktemp("runs") / "dog"
    for step in STEPS:
        make_adapter(folder / "checkpoints" / f"step_{step:07d}", seed=step, trigger="sks", step=step)
    (folder / "run.yaml").write_text(f"data:\n  dataset: {json.dumps(str(dataset))}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps") / "sweep"


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def done(run: Path, out: Path, said: list[str]) -> Sweep:
    """One sweep that the tests of this file read."""
    return run_sweep(run, out, said)


def images_below(folder: Path) -> dict[str, bytes]:
    """Pixels by file; the recipe in a PNG names the adapter's place, which differs between two folders."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            found[path.relative_to(folder).as_posix()] = image.tobytes()
    return found


def test_every_checkpoint_and_average_is_compared_at_every_scale_on_the_same_prompts_and_seeds(
    done: Sweep, out: Path, said: list[str]
) -> None:
    names = [
        f"{adapter}/{scale}"
        for adapter in ("step_0000010", "step_0000020", "step_0000030", "ema_0.2")
        for scale in ("0.5", "1")
    ]
    assert [cell.name for cell in done.cells] == names
    asked = [
        [(row["prompt"], row["seed"], row["num_steps"]) for row in read_rows(out / "images" / name / "generated")]
        for name in names
    ]
    assert all(one == asked[0] for one in asked)
    assert len(asked[0]) == 3
    used = {
        (row["adapters"][0]["sha256"], row["adapters"][0]["weight"])
        for name in names
        for row in read_rows(out / "images" / name / "generated")
    }
    assert len(used) == 8, "each setting has its own file and scale"
    assert read_rows(out / "images" / "base" / "base")[0]["adapters"] == []
    work = "(3 checkpoints + 1 average) x 2 scales x 3 prompts x 1 seed = 24 images"
    assert f"{work}, and 32 more for drift and the like; 7 of the base" in said
    assert any(one.startswith("63 images to generate: about ") for one in said)


def test_images_of_a_setting_are_those_of_the_checkpoint_alone(done: Sweep, run: Path, out: Path) -> None:
    """Checkpoints replace each other on one model: nothing of the one before may stay."""
    alone = run_sweep(
        run, out.parent / "alone", **{"sweep.checkpoints": "20", "sweep.ema": "none", "sweep.scales": "1"}
    )
    assert [cell.name for cell in alone.cells] == ["step_0000020/1"]
    first = images_below(out / "images/step_0000020/1/generated")
    assert images_below(out.parent / "alone/images/step_0000020/1/generated") == first
    assert first != images_below(out / "images/step_0000030/1/generated")


def test_an_average_is_an_adapter_file_that_others_can_load(done: Sweep, out: Path) -> None:
    average = next(cell.candidate for cell in done.cells if cell.candidate.is_average)
    assert average.file.path == out / "averages/ema_0.2/adapter.safetensors"
    assert [step for step, _ in average.weights] == list(STEPS)
    assert average.file.record["trigger"] == "sks"


def test_a_second_sweep_generates_nothing_and_finds_the_same(done: Sweep, run: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    said: list[str] = []
    again = run_sweep(run, out, said)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert "nothing to generate: 63 images there already" in said
    assert [(row.cell.name, row.score, row.verdict) for row in again.ranking.rows] == [
        (row.cell.name, row.score, row.verdict) for row in done.ranking.rows
    ]


def test_an_interrupted_sweep_keeps_its_images_and_the_same_command_continues_it(
    done: Sweep, run: Path, out: Path, tmp_path: Path
) -> None:
    def bar(title: str) -> Callable[[int, int], None]:
        def progress(count: int, total: int) -> None:
            if title.startswith("sweep") and count >= total // 2:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        run_sweep(run, tmp_path / "sweep", bar=bar)
    kept = images_below(tmp_path / "sweep" / "images")
    assert 20 < len(kept) < 63
    said: list[str] = []
    counts: list[tuple[int, int]] = []
    again = run_sweep(
        run,
        tmp_path / "sweep",
        said,
        bar=lambda title: lambda *count: counts.append(count) if "sweep" in title else None,
    )
    missing = 63 - len(kept)
    assert any(line.startswith(f"{missing} images to generate, {len(kept)} are there already: about ") for line in said)
    assert counts[-1] == (missing, missing)
    whole = images_below(tmp_path / "sweep" / "images")
    assert whole == images_below(out / "images")
    assert kept.items() <= whole.items()
    assert [row.score for row in again.ranking.rows] == [row.score for row in done.ranking.rows]


def test_the_report_is_one_file_without_scripts_and_the_record_has_every_setting_and_the_rules(
    done: Sweep, out: Path
) -> None:
    files = write_sweep(done)
    assert [file.name for file in files] == [RECORD_FILE, REPORT_FILE, SHEET_FILE]
    page = files[1].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<polyline") >= 5
    assert page.count("data:image/jpeg") == 3 * (8 + 1)
    record = json.loads(files[0].read_text(encoding="utf-8"))
    assert {row["setting"] for row in record["leaderboard"]} == {cell.name for cell in done.cells}
    assert set(record["rules"]) == {"underfitted", "overfitted", "unsure", "good"}
    assert record["advised"]["setting"] == done.ranking.advised.cell.name
    assert record["advice"][0].startswith("advised: ")
    assert sum(record["averages"]["ema_0.2"].values()) == pytest.approx(1)
    for row in record["leaderboard"]:
        assert {"score", "gain", "drift", "verdict", "reasons", "figures", "sha256"} <= row.keys()


def test_the_terminal_shows_a_leaderboard_the_advice_and_a_command_that_uses_it(done: Sweep) -> None:
    lines = sweep_lines(done)
    rows = lines[0].splitlines()
    assert rows[0].split() == ["setting", "score", "gain", "drift", "prompts", "followed", "less", "copies", "verdict"]
    assert [row.split("  ")[1].strip() for row in rows[1:]] == [row.cell.label for row in done.ranking.rows]
    assert sum("advised: " in line for line in lines) == 1
    best = next(cell for cell in done.cells if cell.name == done.ranking.advised.cell.name)
    place, term = parse_lora_option(shlex.split(lines[-1])[-1])
    assert (Path(place), term.scale) == (best.candidate.place, best.scale)


def test_more_seeds_compare_seeds_of_one_prompt_and_prompts_of_a_file_are_all_used(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("sks in a garden\n", encoding="utf-8")
    found = run_sweep(
        run,
        tmp_path / "out",
        prompts_file=file,
        num_seeds=5,
        metrics=["style"],
        **{"sweep.checkpoints": "newest:1", "sweep.ema": "auto"},
    )
    assert found.run.prompts == ("sks in a garden",)
    assert found.ranking.num_prompts == 5, "with one prompt, its seeds are what is compared"
    assert found.ranking.advised.score.low is not None
    assert found.ranking.advised.drift is None
    assert [cell.name for cell in found.cells] == ["step_0000030/0.5", "step_0000030/1"]
    assert write_sweep(found)[1].read_text(encoding="utf-8").count("<polyline") >= 2


# -------------------------------------------------------------------------------------------------- users' mistakes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sweep.scales": "0.4,strong"}, "--scales: not a scale: got 'strong'"),
        ({"sweep.checkpoints": "25"}, "the run has no checkpoint of this step"),
        ({"sweep.checkpoints": "10", "sweep.ema": "0.1"}, "an average needs two checkpoints"),
        ({"sweep.rank_by": "styl"}, "did you mean 'style'"),
        ({"sweep.rank_by": "dino"}, "--rank-by names a metric that is not computed"),
        ({"metrics": ["drift"]}, "nothing to rank by among the metrics"),
        ({"metrics": ["stile"]}, "no such metric"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_generated(
    run: Path, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        run_sweep(run, tmp_path / "out", **given)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_training_set_and_a_run_without_checkpoints_are_one_line(
    run: Path, tmp_path: Path, dataset: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    (gone / "run.yaml").write_text("data:\n  dataset: nowhere\n", encoding="utf-8")
    with pytest.raises(UserError, match="the dataset of this run is gone") as caught:
        run_sweep(gone, tmp_path / "out")
    assert "--reference" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no adapter in this folder"):
        run_sweep(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_a_sweep_does_not_use_are_a_line_each_and_an_error_with_strict(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--adapter-weight is not used in a sweep"):
        run_sweep(run, tmp_path / "out", adapter_weight=0.5, strict=True)
