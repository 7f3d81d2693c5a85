"""The recipe from end to end on a random model, as a user runs it: results, what is not done again, what breaks."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from loraloom.generate.recipes import read_rows
from loraloom.utils.errors import UserError
from recipes.styles.recipe import Result, run_recipe, summary
from recipes.styles.settings import read_styles

Draw = Callable[..., Path]
BROKEN = "no image of"


@dataclass(slots=True)
class Recipe:
    """One folder of results, and how the recipe is run in it."""

    folder: Path
    styles: tuple[str, ...]
    model: Path
    said: list[str] = field(default_factory=list[str])

    def run(self, *overrides: str) -> Result:
        given = (
            f"run.model.source={self.model}", "run.data.batch_size=2", "run.lora.rank=2", "run.lora.target=cross_attention",
            "run.train.mixed_precision=no", "run.optim.warmup_steps=0", "run.checkpoints.every=0",
            "run.train.validation_every=0", "run.samples.enabled=false", "run.export.verify=false", "epochs=1",
            "prepare.size=64", "prepare.min_size=16", "prepare.num_workers=1", "prepare.domain=freetext",
            "compare.prompts=[]", "compare.num_prompts=4", "compare.num_seeds=1", "compare.steps=1",
            "evaluate.extractor=builtin:mini", "evaluate.num_prompts=2", "evaluate.num_seeds=1", "evaluate.steps=1",
            "evaluate.num_probes=0", "evaluate.metrics=[texture, clip_i]", *overrides,
        )  # fmt: skip
        self.said.clear()
        config = read_styles(None, "mini", self.styles, given)
        return run_recipe(self.folder, config, self.said.append, lambda title: lambda done, total: None, cpu=True)


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, draw_folder: Draw, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two styles of folders, and one whose only image is none."""
    place = tmp_path_factory.mktemp("styles")
    draw_folder(place / "ink", 4)
    draw_folder(place / "oil", 4, text="thing {n}")
    (place / "bad").mkdir()
    (place / "bad" / "a.png").write_bytes(b"no image")
    styles = tuple(f"{name}={place / name}:{name}style" for name in ("ink", "oil", "bad"))
    return Recipe(folder=place / "out", styles=styles, model=tiny_model)


@pytest.fixture(scope="module")
def first(recipe: Recipe) -> tuple[Result, list[str]]:
    """The first run and what it said."""
    return recipe.run(), list(recipe.said)


def test_a_broken_style_is_named_in_the_report_and_the_others_are_done(
    recipe: Recipe, first: tuple[Result, list[str]]
) -> None:
    result, said = first
    assert set(result.failed) == {"dataset bad", "lora bad", "scores bad"}
    assert BROKEN in result.failed["dataset bad"]
    assert any(line.startswith("dataset bad: FAILED") for line in said)
    page = result.report.read_text(encoding="utf-8")
    assert "What failed" in page and BROKEN in page
    assert "ink:0.6 + oil:0.4" in page
    assert page.count("data:image/png;base64,") == 2
    assert "evaluation/ink/report.html" in page
    assert (recipe.folder / "evaluation" / "oil" / "report.html").is_file()


def test_every_row_has_the_same_prompts_and_seeds_with_the_triggers_of_its_styles(
    recipe: Recipe, first: tuple[Result, list[str]]
) -> None:
    figures = first[0].figures
    assert figures is not None and figures["images_per_row"] == 4
    rows = {
        name: read_rows(recipe.folder / "compare" / "images" / name)
        for name in ("base", "ink", "oil", "ink_0.6_oil_0.4")
    }
    plain = [row["prompt"] for row in rows["base"]]
    assert plain == figures["prompts"]
    assert not any("style" in prompt for prompt in plain)
    for name, triggers in (("ink", "inkstyle"), ("oil", "oilstyle"), ("ink_0.6_oil_0.4", "inkstyle, oilstyle")):
        assert [row["prompt"] for row in rows[name]] == [f"{triggers}, {prompt}" for prompt in plain]
        assert [row["seed"] for row in rows[name]] == [row["seed"] for row in rows["base"]]
    assert rows["ink_0.6_oil_0.4"][0]["loras"] == "ink:0.6 + oil:0.4"


def test_the_figures_name_metric_counts_extractor_and_every_statement(first: tuple[Result, list[str]]) -> None:
    figures = first[0].figures
    assert figures is not None
    assert [one["metric"] for one in figures["likeness"]] == ["texture", "style"]
    assert set(figures["likeness"][0]["rows"]) == {"base", "ink", "oil", "ink:0.6 + oil:0.4"}
    assert figures["extractor"]["location"] == "builtin:mini"
    assert figures["references"] == {"ink": 4, "oil": 4}
    kinds = [one["kind"] for one in figures["findings"]]
    assert (kinds.count("style"), kinds.count("blend"), kinds.count("prompt")) == (4, 2, 3)
    assert len(summary(first[0]).splitlines()) == len(figures["findings"])


def test_nothing_is_done_again_and_a_repaired_style_joins(
    recipe: Recipe, first: tuple[Result, list[str]], draw_folder: Draw
) -> None:
    adapter = recipe.folder / "runs" / "ink" / "adapter.safetensors"
    before = adapter.stat().st_mtime_ns
    recipe.run("scored=false")
    done = [line.split(":")[0] for line in recipe.said if "done before" in line]
    assert done == ["dataset ink", "dataset oil", "lora ink", "lora oil", "comparison"]
    bad = recipe.folder.parent / "bad"
    (bad / "a.png").unlink()
    draw_folder(bad, 4, text="mended {n}")
    result = recipe.run("scored=false")
    assert not result.failed
    assert adapter.stat().st_mtime_ns == before
    assert result.figures is not None
    assert "bad:0.6 + ink:0.4" in result.figures["likeness"][0]["rows"]


def test_a_run_of_other_settings_is_kept_and_named(recipe: Recipe, first: tuple[Result, list[str]]) -> None:
    """A second length of training in the same folder must not silently replace the first."""
    before = (recipe.folder / "runs" / "ink" / "adapter.safetensors").read_bytes()
    result = recipe.run("scored=false", "epochs=3")
    assert {"lora ink", "lora oil"} <= set(result.failed)
    assert "max_steps" in result.failed["lora ink"]
    assert (recipe.folder / "runs" / "ink" / "adapter.safetensors").read_bytes() == before


def test_a_folder_of_something_else_and_a_missing_folder_are_errors_before_anything_is_written(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine", encoding="utf-8")
    other = Recipe(folder=tmp_path / "mine", styles=recipe.styles[:1], model=recipe.model)
    with pytest.raises(UserError, match="not one of this recipe"):
        other.run()
    gone = Recipe(folder=tmp_path / "new", styles=(f"ink={tmp_path / 'nowhere'}:inkstyle",), model=recipe.model)
    with pytest.raises(UserError, match="the folder of the style ink is not there"):
        gone.run()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["letter.txt", "mine"]


@pytest.mark.long  # trains two LoRAs on the built-in base
@pytest.mark.timeout(1800)
def test_on_the_built_in_base_watercolor_rises_to_itself_and_its_blend_lies_between(tmp_path: Path) -> None:
    styles = ("watercolor=samples:watercolour:wcstyle", "cartoon=samples:cartoon:cartoonstyle")
    given = ("samples.count=32", "epochs=20", "run.data.batch_size=8", "compare.num_seeds=1", "compare.steps=12")
    config = read_styles(None, "mini", styles, (*given, "scored=false", "run.export.verify=false"))
    result = run_recipe(tmp_path / "out", config, print, lambda title: lambda done, total: None, cpu=True)
    assert not result.failed and result.figures is not None
    shown = {
        (one["metric"], one["kind"], one["text"].split(":")[0]): one["shown"] for one in result.figures["findings"]
    }
    assert shown["texture", "style", "watercolor"], summary(result)
    assert shown["texture", "blend", "watercolor"], summary(result)
    with Image.open(tmp_path / "out" / "compare" / "single.png") as sheet:
        assert sheet.width > 3 * 256
    recipe_file = json.loads((tmp_path / "out" / "compare" / "figures.json").read_text(encoding="utf-8"))
    assert recipe_file["images_per_row"] == len(config.compare.prompts)
