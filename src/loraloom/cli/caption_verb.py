"""The verb `loraloom caption`: its arguments; heavy imports are inside the function.

In: the command line. Out: what `prepare.captioning` does with it.
"""

from pathlib import Path
from typing import Annotated

import typer

from loraloom.config.flags import ConfigFile, Given, Overrides
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import COMMAND


def caption(
    given: Given,
    folder: Annotated[Path, typer.Argument(help="Folder with images, in any layout that prepare reads.")],
    versions: Annotated[bool, typer.Option("--versions", help="List the versions of its captions, and exit.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Return to the version before the current one.")] = False,
    use: Annotated[
        int | None, typer.Option("--use", min=0, metavar="N", help="Make version N current; 0: captions as found.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, metavar="N", help="Print the captions of N images.")] = 3,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write captions for images, or edit them: by template, BLIP, Florence-2, a vision-language model, a tagger, a reader."""
    from loraloom.prepare import caption_versions

    if versions + undo + (use is not None) > 1:
        raise UserError("--versions, --undo and --use exclude each other", fix="give one of them")
    if versions or undo or use is not None:
        if given or overrides or config:
            raise UserError("--versions, --undo and --use take no settings", fix="leave the other flags out")
        if not folder.is_dir():
            raise UserError("the source is not a folder", got=str(folder), fix="name the folder with the images")
        typer.echo(caption_versions.versions_text(folder)) if versions else caption_versions.undo(
            folder, typer.echo, use
        )
        return
    from loraloom.config.caption import CaptionConfig
    from loraloom.config.reading import read_settings
    from loraloom.prepare.captioning import caption_folder
    from loraloom.utils.progress import bars

    settings = read_settings(CaptionConfig, config, overrides or (), given)
    caption_versions.check_captioner(settings.captioner)
    with bars() as bar:
        report = caption_folder(folder, settings, console=typer.echo, progress=bar("images"))
    if report.version is None:
        typer.echo("nothing to do: the current version has these captions; --undo takes it back")
    else:
        header = report.version.header
        reused = f", {report.num_reused:,} kept from before" if report.num_reused else ""
        typer.echo(f"version {header.version}: {counted(report.num_written, 'image')} captioned{reused}")
        for row in list(report.version.rows.values())[:show]:
            for number, text in enumerate(row.captions):
                typer.echo(f"  {row.id if not number else ' ' * len(row.id)}: {text}")
    typer.echo(f"next: {COMMAND} prepare {folder} --out DATASET    (undo: {COMMAND} caption {folder} --undo)")
