"""Settings of the style recipe: presets in two formats, styles of a user, mistakes."""

from pathlib import Path

import pytest

from loraloom.config.reading import to_yaml
from loraloom.utils.errors import UserError
from recipes.styles.making import check_folders, sample_style
from recipes.styles.settings import PRESETS, read_styles

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_the_same_in_yaml_and_in_toml_and_is_read_back(name: str, tmp_path: Path) -> None:
    config = read_styles(None, name)
    assert config == read_styles(PRESETS / f"{name}.toml", "mini")
    (tmp_path / "mine.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert read_styles(tmp_path / "mine.yaml", "mini") == config


def test_the_preset_for_a_large_gpu_has_the_recommended_settings() -> None:
    config = read_styles(None, "h100")
    assert 2 <= config.run.data.batch_size <= 4
    assert config.run.train.mixed_precision == "bf16"
    assert (config.run.lora.rank, config.run.lora.alpha) == (32, 16)
    assert 15 <= config.epochs <= 20
    assert config.run.optim.learning_rate == 1e-4


def test_the_preset_for_a_laptop_needs_no_download_and_no_folder() -> None:
    config = read_styles(None, "mini")
    assert config.run.model.source == "builtin:mini"
    from loraloom.prepare.styles import parse_styles

    styles = parse_styles(config.prepare.style)
    assert {style.name: style.trigger for style in styles} == {
        "anime": "anistyle",
        "watercolor": "wcstyle",
        "cartoon": "cartoonstyle",
    }
    assert all(sample_style(style) for style in styles)


def test_styles_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    config = read_styles(None, "mini", (f"ink={tmp_path}:inkstyle",), ("run.lora.rank=4",))
    assert config.prepare.style == (f"ink={tmp_path}:inkstyle",)
    assert config.run.lora.rank == 4


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (("run.lora.rnak=3",), "did you mean 'rank'"),
        (("prepare.style=[]",), "add --style NAME=FOLDER:TRIGGER"),
        (("run.train.max_steps=300",), "both set the length"),
        (("run.data.dataset=x",), "set by the recipe"),
        (("run.train.method=full", "run.lora.rank=16", "run.lora.target=cross_attention"), "method must be lora"),
        (("compare.metrics=[kid]",), "no metric of likeness"),
        (("compare.blend=[0.6, 0]",), "two scales above 0"),
        (("prepare.domain=scens",), "did you mean 'scenes'"),
    ],
)
def test_each_mistake_is_one_error(overrides: tuple[str, ...], what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_styles(None, "mini", (), overrides)


def test_an_error_names_the_command_of_the_recipe() -> None:
    with pytest.raises(UserError, match=r"python -m recipes\.styles config"):
        read_styles(None, "mini", (), ("epoch=3",))


def test_an_unknown_preset_and_an_unknown_style_of_samples_name_the_nearest() -> None:
    from loraloom.prepare.styles import parse_styles

    with pytest.raises(UserError, match="did you mean 'h100'"):
        read_styles(None, "h10")
    with pytest.raises(UserError, match="did you mean 'cartoon'"):
        check_folders(parse_styles(["x=samples:cartoons:xstyle"]))
