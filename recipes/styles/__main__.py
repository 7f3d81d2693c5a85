"""`python -m recipes.styles run --out FOLDER`: train styles, blend them, and report what each learned.

In: command line options. Out: a folder with datasets, LoRAs, grids, figures and `report.html`; exit status 1 if a part
failed.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loraloom.utils.errors import UserError
from loraloom.utils.progress import bars
from loraloom.utils.untrusted import check_text

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

_Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Recipe file, YAML or TOML; replaces the preset."),
]
_Preset = Annotated[
    str, typer.Option(help="mini: rendered styles on the built-in base, on any CPU; h100: your folders on a large GPU.")
]
_Style = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER:TRIGGER",
        help="A style; the trigger word follows the last colon; FOLDER may be samples:STYLE; repeat for several. They "
        "replace those of the recipe file.",
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as run.lora.rank=8; may be repeated."),
]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Treat as errors whatever is not used as it was given, in every part.")
]


@app.callback()
def styles() -> None:
    """Train several styles, blend them, and show with figures what each learned."""


@app.command()
def run(
    out: Annotated[Path, typer.Option("--out", help="Folder of all results; an existing one is continued.")],
    config: _Config = None,
    preset: _Preset = "mini",
    style: _Style = None,
    overrides: _Set = None,
    strict: _Strict = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
) -> None:
    """Train all styles, generate grids of styles and blends, score them, and write one report."""
    from recipes.styles.recipe import run_recipe, summary
    from recipes.styles.settings import read_styles

    given = [*(overrides or ()), *(_STRICT if strict else ())]
    settings = read_styles(config, preset, tuple(style or ()), tuple(given))
    with bars() as bar:
        result = run_recipe(out, settings, typer.echo, bar, cpu=cpu)
    typer.echo("")
    typer.echo(summary(result))
    for name, reason in result.failed.items():
        typer.echo(f"FAILED {name}: {reason}", err=True)
    typer.echo(f"look at {result.report}")
    if result.failed:
        typer.echo("the same command does again what failed, and nothing that is done", err=True)
        raise typer.Exit(1)


@app.command("config")
def show_config(
    config: _Config = None,
    preset: _Preset = "mini",
    style: _Style = None,
    overrides: _Set = None,
) -> None:
    """Print every setting of a preset or a recipe file as YAML: a file for --config."""
    from loraloom.config.reading import to_yaml
    from recipes.styles.settings import read_styles

    typer.echo(to_yaml(read_styles(config, preset, tuple(style or ()), tuple(overrides or ()))), nl=False)


_STRICT = ("prepare.strict=true", "run.train.strict=true", "compare.strict=true", "evaluate.strict=true")


def main() -> None:
    """Run the command; an error of the user is printed in one line."""
    try:
        for number, argument in enumerate(sys.argv[1:], 1):
            check_text(argument, f"argument {number}")
        app(prog_name="python -m recipes.styles")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command resumes\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
