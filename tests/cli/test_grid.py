"""`loraloom grid` and `--lora` from the command line, on the tiny model."""

import json
from pathlib import Path

import pytest
from PIL import Image

from loraloom.cli.generate_command import GenerateOptions, generate
from loraloom.cli.grid_command import GridRequest, generate_grid
from loraloom.cli.interactive import no_bars
from loraloom.config.generate import GenerateConfig
from loraloom.utils.errors import UserError
from tests.generate.conftest import QUICK, MakeAdapter, make_adapter  # noqa: F401 - a fixture

CONFIG = GenerateConfig.model_validate(QUICK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("styles")
    make_adapter(folder / "anime", seed=1, trigger="anistyle")
    make_adapter(folder / "wc", seed=2)
    return folder


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_grid_holds_every_setting_with_its_recipe_and_can_be_drawn_again(runs: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    asked = GridRequest(
        prompts=["a cat", "a dog"],
        loras=[str(runs / "anime"), f"w={runs / 'wc'}:0.5"],
        mixes=["base", "anime:0.6 + w:0.4", "switch: anime + w"],
        out=tmp_path / "g",
    )
    generate_grid(CONFIG, asked, lines.append, no_bars)
    assert lines[0].startswith("note: the trigger of anime, 'anistyle'")
    assert "6 images: lora across, prompt down" in lines
    found = {(row["prompt"], row["loras"]) for row in rows(tmp_path / "g")}
    assert found == {
        (prompt, loras)
        for prompt in ("a cat", "a dog")
        for loras in ("", "anime:0.6 + w:0.4", "switch(1): anime:1 + w:1")
    }
    assert (tmp_path / "g" / "grid.html").read_text(encoding="utf-8").count("<img") == 6
    assert (tmp_path / "g" / "grid.png").is_file()
    again = GenerateOptions(recipe=tmp_path / "g" / "prompts.jsonl", out=tmp_path / "again")
    generate(CONFIG, again, {}, lines.append, no_bars)
    for name in (f"{number:05d}.png" for number in range(6)):
        with Image.open(tmp_path / "g" / name) as one, Image.open(tmp_path / "again" / name) as other:
            assert max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1


def test_without_mixes_the_grid_shows_the_base_each_lora_and_all(runs: Path, tmp_path: Path) -> None:
    asked = GridRequest(prompts=["a"], loras=[str(runs / "anime"), str(runs / "wc")], add_triggers=True, out=tmp_path)
    generate_grid(CONFIG, asked, lambda line: None, no_bars)
    assert [row["loras"] for row in sorted(rows(tmp_path), key=lambda row: str(row["loras"]))] == [
        "", "anime:1", "anime:1 + wc:1", "wc:1",
    ]  # fmt: skip
    assert {str(row["prompt"]) for row in rows(tmp_path)} == {"a", "anistyle, a"}


def test_a_tag_in_a_prompt_loads_a_lora_from_the_folder(runs: Path, tiny_model: Path, tmp_path: Path) -> None:
    wishes = GenerateOptions(
        prompts=["a cat <lora:anime:0.7>", "a cat"],
        lora_dir=runs,
        model=str(tiny_model),
        add_triggers=True,
        out=tmp_path,
    )
    generate(CONFIG, wishes, {}, lambda line: None, no_bars)
    assert [(row["prompt"], row["loras"]) for row in rows(tmp_path)] == [
        ("anistyle, a cat", "anime:0.7"),
        ("a cat", None),
    ]
    with Image.open(tmp_path / "00000.png") as one, Image.open(tmp_path / "00001.png") as other:
        assert one.tobytes() != other.tobytes()
        assert "Lora blend" in str(one.info["parameters"])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"mixes": ["anima:1"]}, "not loaded"),
        ({"seeds": "1,x"}, "whole numbers"),
        ({"seeds": "5-2"}, "not a range"),
        ({"steps": "0"}, "--grid-steps"),
        ({"guidance": "high"}, "--guidances needs numbers"),
        ({"across": "weight"}, "unknown axis"),
        ({"samplers": "dim"}, "unknown sampler"),
        ({"loras": ["anime:much"]}, "not a scale"),
        ({"loras": []}, "no model"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    changes: dict[str, object], word: str, runs: Path, tmp_path: Path
) -> None:
    asked = {"prompts": ["a"], "loras": [str(runs / "anime")], "out": tmp_path / "g", **changes}
    with pytest.raises(UserError, match=word):
        generate_grid(CONFIG, GridRequest(**asked), lambda line: None, no_bars)  # type: ignore[arg-type]
    assert not (tmp_path / "g").exists()


def test_two_loras_of_one_name_are_refused(runs: Path) -> None:
    with pytest.raises(UserError, match="two LoRAs of one name"):
        generate(CONFIG, GenerateOptions(prompts=["a"], loras=[str(runs / "anime")] * 2), {}, print, no_bars)
