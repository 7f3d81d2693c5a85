"""Folders of captioned images, drawn by several processes, that an interrupted run goes on with.

In: a folder, a count, a seed, a style. Out: `images/000000.png` and so on with `metadata.jsonl` (the image folder
layout: `file_name`, `text`) and `truth.jsonl` (what is where), both written last, so that a folder that has them is whole.
"""

import json
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from loraloom.extensions.domains.scenes.drawing import check_style, draw, words
from loraloom.utils.atomic_files import remove_leftovers, write_json, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.image_files import write_png
from loraloom.utils.parallel import spread, usable_cores
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed

DRAWING = 1
"""Counts up when the same seed begins to draw another image: folders of two kinds must not mix."""
PIECE = 32
"""Images that a process draws before it reports."""
FEW = 64
"""So many images are sooner drawn than processes are started."""


def image_seed(seed: int, number: int) -> int:
    """What image `number` of the dataset with `seed` is drawn from."""
    return derive_seed("scenes", "dataset", seed, number)


def file_name(number: int) -> str:
    """Path of an image below the dataset folder."""
    return f"images/{number:06d}.png"


def _draw_piece(folder: str, numbers: range, seed: int, style: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Draw what is missing of some images; number, caption and truth of each."""
    rows: list[tuple[int, str, dict[str, Any]]] = []
    for number in numbers:
        path, own = Path(folder) / file_name(number), image_seed(seed, number)
        if path.is_file():
            text, facts = words(own, style)
        else:
            drawn = draw(own, style)
            write_png(path, drawn.image, level=4)
            text, facts = drawn.caption, drawn.truth
        rows.append((number, text, facts))
    return rows


def _pieces(
    folder: Path, count: int, seed: int, style: str, workers: int
) -> Generator[list[tuple[int, str, dict[str, Any]]]]:
    """Rows of all images, a piece at a time and in order."""
    pieces = [range(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    if workers <= 1 or count <= FEW:
        yield from (_draw_piece(str(folder), piece, seed, style) for piece in pieces)
        return
    yield from spread(partial(_draw_piece, str(folder), seed=seed, style=style), pieces, workers)


def _claim(folder: Path, count: int, seed: int, style: str) -> None:
    """Write down what the folder is for, or see that it agrees with what is written there."""
    path = folder / "scenes.json"
    wanted = {"seed": seed, "style": style, "drawing": DRAWING}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in wanted} != wanted or found.get("count", 0) > count:
            raise UserError(
                f"{folder} holds another dataset of scenes",
                got=found,
                expected={**wanted, "count": f"at most {count}"},
                fix="name an empty folder, or ask for what is there",
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no dataset of scenes", fix="name an empty folder")
    write_json(path, {**wanted, "count": count})


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    style: str = "flat",
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Draw `count` captioned images into `folder`; a folder that was begun is completed, or made larger.

    Args:
        folder: New, empty, or begun by this function with the same seed and style and no larger count.
        count: How many images.
        seed: Of the dataset; image n is the same whatever the count.
        style: See `drawing.STYLES`.
        progress: Called with (done, total).
        workers: Processes; None is one for each core.

    Raises:
        UserError: The count is not positive, the style is unknown, or the folder holds something else.
    """
    if count < 1:
        raise UserError("count of pictures", got=count, expected="1 or more")
    check_style(style)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _claim(folder, count, seed, style)
    (folder / "images").mkdir(exist_ok=True)
    remove_leftovers(folder / "images")
    for name in ("metadata.jsonl", "truth.jsonl"):  # of a smaller count: the folder is not whole until the end
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
