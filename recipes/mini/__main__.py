"""`python -m recipes.mini build --out FOLDER`: make the built-in base again, or go on.

In: command line options. Out: a folder with the base and the state of every stage.
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
    """How the built-in base `builtin:mini` is made."""


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", help="folder that everything goes into; the same one goes on")],
    budget: Annotated[str, typer.Option(help="time to spend now: 45m, 2h")] = "2h",
    images: Annotated[int, typer.Option(min=0, help="for the denoiser; another number begins a new round")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="of the denoiser in a round; likewise")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="images in a step; likewise")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, help="of the denoiser, at its peak; likewise")] = 0.0,
    begin: Annotated[str, typer.Option(help="a model to begin from, builtin:mini say, instead of from nothing")] = "",
) -> None:
    """Make the built-in base again, or go on; resumable. What is left at 0 is what suits CPU or GPU."""

    asked = {"images": images, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    recipe = recipe_for(best_device(), **{name: value for name, value in asked.items() if value})
    spend_s = seconds_of(budget)
    with bars() as bar:
        build_mini(out, recipe, spend_s, typer.echo, bar, ModelSource(location=begin) if begin else None)


def main() -> None:
    """Run the command; a mistake of the user is one line."""
    try:
        app(prog_name="python -m recipes.mini")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
