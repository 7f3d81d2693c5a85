"""The verb `inspect`: its arguments; the work is in `inspect_command`."""

from pathlib import Path
from typing import Annotated

import typer

from loraloom.config.flags import ConfigFile, Given, Overrides


def inspect(
    given: Given,
    source: Annotated[Path, typer.Argument(help="Folder with images and captions; it is not changed.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of inspect.json and report.html. [default: NAME-inspected]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Count caption tokens with this model's tokenizer.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Earlier run of `loraloom train`: its speed and batch size give the time of a training."
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Find what is wrong with a folder of images and captions, before anything is trained; no model is required."""
    from loraloom.cli.inspect_command import run_inspect, with_speed_of
    from loraloom.config.inspect import InspectConfig
    from loraloom.config.reading import read_settings

    settings = read_settings(InspectConfig, config, overrides or (), given)
    if run is not None:
        settings = with_speed_of(run, settings)
    raise typer.Exit(run_inspect(source, out, settings, model, typer.echo))
