"""`loraloom cache`: precompute, show, verify and clean the cache of latents and prompt embeddings of a dataset.

In: the words after `loraloom cache`. Out: text or JSON on stdout; exit status 1 where `verify` finds a corrupt file. What is
heavy is imported in `cache_command`.
"""

from pathlib import Path
from typing import Annotated

import typer

from loraloom.config.flags import ConfigFile, Overrides

Dataset = Annotated[Path, typer.Argument(help="Dataset folder, written by `loraloom prepare`.")]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", help="Folder of the cache. [default: the dataset's, or that of the settings]"),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Base model: then files of other models are stale, and what is missing is exact."),
]
Run = Annotated[
    Path | None, typer.Option("--run", help="Run folder: its settings, model included, say what is asked for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with every file.")]


def precompute(
    dataset: Dataset,
    model: Model = None,
    run: Run = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="K/N", help="Encode only part K of N, to share the work out to machines or jobs."
        ),
    ] = None,
    num_processes: Annotated[
        str | None,
        typer.Option("--num-processes", metavar="N|auto", help="Processes of this machine, one a GPU; auto: all GPUs."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Encode on the CPU even if there is a GPU.")] = False,
) -> None:
    """Encode the images and captions that a training will ask for, all or a part of them."""
    from loraloom.cli import cache_command as command

    place = command.Place(dataset, cache_dir, model, run, config, tuple(overrides or ()))
    if code := command.precompute(place, part, num_processes, typer.echo, cpu=cpu):
        raise typer.Exit(code)


def status(
    dataset: Dataset,
    model: Model = None,
    run: Run = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Count fresh, stale, missing and unreadable files, with their size and the reason; reads headers only."""
    from loraloom.cli import cache_command as command

    report = command.look(command.Place(dataset, cache_dir, model, run, config, tuple(overrides or ())), deep=False)
    command.show(report, typer.echo, as_json=as_json)


def verify(
    dataset: Dataset,
    model: Model = None,
    run: Run = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Read every file and compare it with the sum that was written with it; exit status 1 if one is corrupt."""
    from loraloom.cli import cache_command as command

    report = command.look(command.Place(dataset, cache_dir, model, run, config, tuple(overrides or ())), deep=True)
    command.show(report, typer.echo, as_json=as_json)
    if any(file.state == "corrupt" for file in report.files):
        raise typer.Exit(1)


def gc(
    dataset: Dataset,
    model: Model = None,
    run: Run = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Also remove embeddings of sample prompts.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also remove files of earlier versions whose origin is not known.")
    ] = False,
) -> None:
    """Remove stale and corrupt files, and say how much that frees; what is still asked for is computed again."""
    from loraloom.cli import cache_command as command

    place = command.Place(dataset, cache_dir, model, run, config, tuple(overrides or ()))
    command.clean(place, typer.echo, dry_run=dry_run, prompts=prompts, unknown=unknown)


COMMANDS = (precompute, status, verify, gc)
