"""`loraloom dataset`: fetch datasets of the hub, join parts, export prepared ones to layouts that other programs read."""

from pathlib import Path
from typing import Annotated

import typer

from loraloom.utils.counted import counted
from loraloom.utils.output_paths import COMMAND, check_folder


def fetch(
    location: Annotated[str, typer.Argument(help="Hub id of a dataset, or a folder that the library datasets opens.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the images; the same command continues after an interruption.")
    ],
    split: Annotated[str, typer.Option(help="Split to fetch.")] = "train",
    subset: Annotated[str, typer.Option(help="Configuration of the dataset. [default: the only one]")] = "",
    image_column: Annotated[str, typer.Option(help="Column of images. [default: the only one]")] = "",
    caption_column: Annotated[str, typer.Option(help="Column of captions.")] = "text",
    max_images: Annotated[int, typer.Option(min=0, help="Stop after N images; 0: all.")] = 0,
) -> None:
    """Stream a dataset of the Hugging Face hub into a folder that prepare reads."""
    from loraloom.prepare import fetching
    from loraloom.utils.progress import bars

    check_folder(out)
    with bars() as bar:
        number = fetching.fetch(
            location,
            out,
            split=split,
            subset=subset,
            image_column=image_column,
            caption_column=caption_column,
            max_images=max_images,
            console=typer.echo,
            progress=bar("images"),
        )
    typer.echo(f"{counted(number, 'image')} in {out}")
    typer.echo(f"next: {COMMAND} prepare {out} --out DATASET")


def join(
    source: Annotated[Path, typer.Argument(help="Folder with images and captions that the parts were made of.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset, as `prepare --part` had it.")],
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Folders with parts that were copied here. [default: those in --out]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Count caption tokens with this model. [default: as the parts say]")
    ] = None,
) -> None:
    """Put the parts of `prepare --part` together into the dataset that one machine would have made."""
    from loraloom.cli.prepare_command import join_parts

    join_parts(source, out, places or [], model, typer.echo)


def export(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, written by prepare.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
    format: Annotated[str, typer.Option("--format", help="webdataset, parquet, arrow_dataset or imagefolder.")],  # noqa: A002
    shard_size: Annotated[int, typer.Option(min=1, help="Images in one file of a layout with such files.")] = 1000,
) -> None:
    """Export a prepared dataset: shards, tables or a folder, with all captions."""
    from loraloom.data.exporting import export_dataset
    from loraloom.data.manifest import read_manifest
    from loraloom.utils.progress import bars

    check_folder(out)
    manifest = read_manifest(dataset)
    with bars() as bar:
        lines = export_dataset(manifest, out, format, shard_size, bar("images"))
    for line in lines:
        typer.echo(f"  {line}")
    typer.echo(f"{counted(len(manifest.examples), 'image')} in {out}, as {format}")


COMMANDS = (fetch, join, export)
"""The commands of `loraloom dataset`, in the order of its help."""
