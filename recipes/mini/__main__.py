"""`python -m recipes.mini build --out FOLDER`: build the built-in base, or continue a build.

In: command line options. Out: a folder with the base and the saved state of every stage.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.progress import bars, seconds_of
from recipes.mini.build import best_device, build_mini
from recipes.mini.recipe import recipe_for

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def mini() -> None:
    """Build the built-in base `builtin:mini`."""


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", help="folder of the build; an existing one is continued")],
    budget: Annotated[str, typer.Option(help="time to spend in this call: 45m, 2h")] = "2h",
    images: Annotated[int, typer.Option(min=0, help="images for the denoiser; another number begins a new round")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="denoiser steps in a round; likewise")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="images in a step; likewise")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, help="peak learning rate of the denoiser; likewise")] = 0.0,
    begin: Annotated[str, typer.Option(help="model to start from, such as builtin:mini; empty: from scratch")] = "",
) -> None:
    """Build the built-in base, or continue a build. An option of 0 takes the default of the CPU or GPU."""

    asked = {"images": images, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    recipe = recipe_for(best_device(), **{name: value for name, value in asked.items() if value})
    spend_s = seconds_of(budget)
    with bars() as bar:
        build_mini(out, recipe, spend_s, typer.echo, bar, ModelSource(location=begin) if begin else None)


def main() -> None:
    """Run the command; an error of the user is printed in one line."""
    try:
        app(prog_name="python -m recipes.mini")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
