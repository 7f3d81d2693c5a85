"""Command line options made from settings."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from loraloom.config.base import Settings
from loraloom.config.describing import leaves
from loraloom.config.flags import ConfigFile, Given, Overrides, add_flags
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.config.run import RunConfig
from loraloom.utils.errors import UserError


def call(*arguments: str) -> tuple[dict[str, Any], Any, list[str] | None]:
    """What a verb made from RunConfig is called with."""
    seen: list[Any] = []

    def train(given: Given, config: ConfigFile = None, overrides: Overrides = None) -> None:
        seen.extend((given, config, overrides))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(add_flags(train, RunConfig))
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    given, config, overrides = seen
    return given, config, overrides


def help_of(kind: type[Settings]) -> str:
    def verb(given: Given) -> None:
        pass

    app = typer.Typer(rich_markup_mode=None)
    app.command()(add_flags(verb, kind))
    return " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output.split())


def test_nothing_given_overrides_nothing() -> None:
    assert call() == ({}, None, None)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--rank", "8"], {"lora.rank": "8"}),
        (["--learning-rate", "1e-3"], {"optim.learning_rate": "1e-3"}),
        (["--no-cache"], {"data.cache": False}),
        (["--cache"], {"data.cache": True}),
        (["--sample-prompt", "a room", "--sample-prompt", "b"], {"samples.prompts": ["a room", "b"]}),
        (["--alpha", "null"], {"lora.alpha": None}),
        (["--revision", "1234"], {"model.revision": "1234"}),
        (["--mixed-precision", "no"], {"train.mixed_precision": "no"}),
    ],
)
def test_a_given_flag_arrives_under_its_dotted_key_and_reads_as_a_setting(
    arguments: list[str], given: dict[str, Any]
) -> None:
    assert call(*arguments)[0] == given
    read_settings(RunConfig, values=given)


def test_a_default_that_is_given_goes_before_the_file() -> None:
    """`--rank 16` is the default's value, and yet it was given: a file's 4 must not win."""
    assert call("--rank", "16")[0] == {"lora.rank": "16"}


def test_own_parameters_of_the_verb_stay() -> None:
    _, config, overrides = call("-c", "run.yaml", "--set", "lora.rank=3", "--set", "train.seed=1", "--rank", "2")
    assert (str(config), overrides) == ("run.yaml", ["lora.rank=3", "train.seed=1"])


@pytest.mark.parametrize("kind", [RunConfig, PrepareConfig, GenerateConfig])
def test_help_shows_every_flag_with_the_help_of_its_setting(kind: type[Settings]) -> None:
    text = help_of(kind).replace(" ", "")  # lines also break at hyphens
    flagged = [leaf for leaf in leaves(kind) if leaf.flag]
    assert len({leaf.flag for leaf in flagged}) == len(flagged)
    for leaf in flagged:
        assert leaf.flag is not None
        assert leaf.flag in text
        assert leaf.help.replace(" ", "") in text


def test_help_shows_limits_defaults_and_choices() -> None:
    text = help_of(RunConfig)
    assert "--rank N Rank of every LoRA update. [an integer >= 1; default: 16]" in text
    assert "--mixed-precision no|fp16|bf16" in text
    assert "--no-random-flip" in text


@pytest.mark.parametrize("flag", ["--fill-in", "--no-fill-in"])
def test_the_former_name_of_a_flag_is_an_error_that_names_the_new_one(flag: str) -> None:
    def generate(given: Given) -> None:
        pytest.fail("it ran")

    app = typer.Typer(rich_markup_mode=None)
    app.command()(add_flags(generate, GenerateConfig))
    with pytest.raises(UserError, match="--fill-in was renamed\n  use --expand-prompts"):
        CliRunner().invoke(app, [flag], catch_exceptions=False)
    assert "fill-in" not in help_of(GenerateConfig)
