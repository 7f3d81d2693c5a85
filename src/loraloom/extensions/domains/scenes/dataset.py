"""Write a folder of captioned images in several processes; an interrupted run can be continued.

In: a folder, a count, a seed, a style. Out: `images/000000.png` and so on with `metadata.jsonl` (the image folder layout:
`file_name`, `text`) and `truth.jsonl` (things and their boxes). Both are written last, so a folder with them is complete.
"""

import json
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from loraloom.extensions.domains.scenes.rendering import check_style, synthesize, words
from loraloom.utils.atomic_files import remove_leftovers, write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.image_files import write_png
from loraloom.utils.parallel import spread
from loraloom.utils.processes import usable_cores
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed
from loraloom.utils.untrusted import is_there, read_json_object, shown

GENERATOR_VERSION = 1
"""Increased when a seed gives another image than before, so that a folder never mixes two versions."""
PIECE = 32
"""Images that a process renders before it reports."""
FEW = 64
"""Up to this number of images a single process is faster than several."""


def image_seed(seed: int, number: int) -> int:
    """Seed of image `number` of the dataset with `seed`."""
    return derive_seed("scenes", "dataset", seed, number)


def file_name(number: int) -> str:
    """Path of an image below the dataset folder."""
    return f"images/{number:06d}.png"


def _render_piece(folder: str, numbers: range, seed: int, style: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Render the missing images of a range; returns number, caption and truth of each image."""
    rows: list[tuple[int, str, dict[str, Any]]] = []
    for number in numbers:
        path, own = Path(folder) / file_name(number), image_seed(seed, number)
        if path.is_file():
            text, facts = words(own, style)
        else:
            made = synthesize(own, style)
            write_png(path, made.image, level=4)
            text, facts = made.caption, made.truth
        rows.append((number, text, facts))
    return rows


def _pieces(
    folder: Path, count: int, seed: int, style: str, workers: int
) -> Generator[list[tuple[int, str, dict[str, Any]]]]:
    """Rows of all images in order, one piece at a time."""
    pieces = [range(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    if workers <= 1 or count <= FEW:
        yield from (_render_piece(str(folder), piece, seed, style) for piece in pieces)
        return
    yield from spread(partial(_render_piece, str(folder), seed=seed, style=style), pieces, workers)


def _claim(folder: Path, count: int, seed: int, style: str) -> None:
    """Record the settings of the dataset in the folder, or check that they agree with the record."""
    path = folder / "scenes.json"
    wanted = {"seed": seed, "style": style, "drawing": GENERATOR_VERSION}
    if is_there(path):
        found = read_json_object(path, str(path))
        there = found.get("count", 0)
        same = {name: found.get(name) for name in wanted} == wanted
        if not (same and isinstance(there, int) and there <= count):
            raise UserError(
                f"{folder} holds another dataset of scenes",
                got=shown(found),
                expected={**wanted, "count": f"at most {count}"},
                fix="name an empty folder, or use the settings of that dataset",
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and is not a dataset of scenes", fix="name an empty folder")
    write_json(path, {**wanted, "count": count})


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    style: str = "flat",
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Write `count` captioned images into `folder`; an incomplete or smaller dataset is completed.

    Args:
        folder: New, empty, or written by this function with the same seed and style and at most the same count.
        count: Number of images, at least 1.
        seed: Seed of the dataset; image n is the same for every count.
        style: A name in `rendering.STYLES`.
        progress: Called with (done, total) after each piece; None reports nothing.
        workers: Number of processes; None is one for each core.

    Raises:
        UserError: The count is not positive, the style is unknown, or the folder holds something else.
    """
    if count < 1:
        raise UserError("number of images", got=count, expected="1 or more")
    check_style(style)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _claim(folder, count, seed, style)
    (folder / "images").mkdir(exist_ok=True)
    remove_leftovers(folder / "images")
    for name in ("metadata.jsonl", "truth.jsonl"):  # of a smaller count: the folder is incomplete until the end
        (folder / name).unlink(missing_ok=True)
    metadata: list[str] = []
    truths: list[str] = []
    with closing(_pieces(folder, count, seed, style, workers or usable_cores())) as pieces:
        for rows in pieces:
            for number, text, facts in rows:
                name = file_name(number)
                metadata.append(json.dumps({"file_name": name, "text": text}) + "\n")
                truths.append(json.dumps({"file_name": name, "seed": image_seed(seed, number), **facts}) + "\n")
            if progress:
                progress(len(metadata), count)
    write_text(folder / "truth.jsonl", "".join(truths))
    write_text(folder / "metadata.jsonl", "".join(metadata))
