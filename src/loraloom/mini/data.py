"""What `mini` learns from: plans in the plain style and scenes in all styles, drawn here, each with a text true of it.

In: a folder, how many, a seed. Out: an image folder (`metadata.jsonl`) to prepare, and an array of pictures for the
autoencoder. Picture n depends on the seed and n only, so that a folder can be made larger.
"""

import io
import json
from contextlib import closing
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.contracts import Progress
from loraloom.files import write_bytes, write_text
from loraloom.randomness import derive_seed
from loraloom.verdicts import Artist
from loraloom.workforce import spread, usable_cores

SIZE_PX = 256
GRID = 16
"""Cells along a side of the coarse pictures that the denoiser is grounded with."""

PLAN_SHARE = 0.7
"""Of the pictures; the rest are scenes, half of them in the flat style."""

RETOLD_SHARE = 0.5
"""Of the plans' texts; the others stand in the order that users write, which is learned sooner."""


def draw_one(number: int, seed: int) -> tuple[Image.Image, str]:
    """Picture `number` and its text."""
    chance = np.random.default_rng(derive_seed("mini", seed, number))
    own = derive_seed("mini picture", seed, number) >> 16
    if chance.random() < PLAN_SHARE:
        artist = _artist("floorplan")
        image, text = artist.draw(own, "plain")
        return image, artist.retell(text, own) if chance.random() < RETOLD_SHARE else text
    artist = _artist("scenes")
    style = "flat" if chance.random() < 0.5 else str(chance.choice(artist.styles))
    return artist.draw(own, style)


def facts_of(text: str) -> list[tuple[str, str, str]]:
    """What a plan's text or a part of it says; empty for a scene's."""
    return _artist("floorplan").facts(text)


def write_examples(
    folder: Path, count: int, seed: int, progress: Progress | None = None, deadline: float = inf
) -> bool:
    """Draw what `folder` lacks of `count` pictures, then write the list of texts; one process a core.

    Returns:
        Whether all stand; False after `deadline` (of `time.monotonic`), and the next call goes on.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    missing = [number for number in range(count) if not (texts / f"{number:06d}.txt").is_file()]
    with closing(spread(partial(_write_one, folder, seed), missing, usable_cores(), chunk=16)) as written:
        for done, _ in enumerate(written, count - len(missing) + 1):
            if progress:
                progress(done, count)
            if monotonic() > deadline:
                return False
    rows = [
        {"file_name": f"images/{number:06d}.png", "text": (texts / f"{number:06d}.txt").read_text(encoding="utf-8")}
        for number in range(count)
    ]
    write_text(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return True


def write_pictures(
    file: Path, count: int, seed: int, progress: Progress | None = None, deadline: float = inf
) -> NDArray[np.uint8] | None:
    """(count, 256, 256, 3) pictures for the autoencoder, kept in `file` (.npy): the same worlds, and plans in every style.

    None after `deadline`; the next call begins again (it is a matter of a minute or two).
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        array = np.lib.format.open_memmap(part, "w+", np.uint8, (count, SIZE_PX, SIZE_PX, 3))
        drawn = spread(partial(_picture, seed), list(range(count)), usable_cores(), chunk=16)
        with closing(drawn):
            for number, picture in enumerate(drawn):
                array[number] = picture
                if progress:
                    progress(number + 1, count)
                if monotonic() > deadline:
                    return None
        array.flush()
        part.replace(file)
    return np.load(file)  # read whole: pages of a map were thrown out and read again, and the fit waited for the disk


def write_grids(
    file: Path, count: int, seed: int, progress: Progress | None = None, deadline: float = inf
) -> tuple[NDArray[np.uint8], list[str]] | None:
    """Coarse colours (count, GRID, GRID, 3) and texts for the first lessons, kept in `file` (.npz).

    None after `deadline`; the next call begins again.
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn: list[tuple[NDArray[np.uint8], str]] = []
        with closing(spread(partial(_grid, seed), list(range(count)), usable_cores(), chunk=16)) as pairs:
            for pair in pairs:
                drawn.append(pair)
                if progress:
                    progress(len(drawn), count)
                if monotonic() > deadline:
                    return None
        stream = io.BytesIO()
        np.savez_compressed(
            stream, grids=np.stack([grid for grid, _ in drawn]), texts=np.array([text for _, text in drawn])
        )
        write_bytes(file, stream.getvalue())
    with np.load(file) as kept:
        return kept["grids"], [str(text) for text in kept["texts"]]


def _grid(seed: int, number: int) -> tuple[NDArray[np.uint8], str]:
    image, text = draw_one(number, seed)
    return grid_of(image), text


def grid_of(picture: Image.Image) -> NDArray[np.uint8]:
    """(GRID, GRID, 3): the colour in the middle of each cell, which a mean over the cell would mix with its walls."""
    pixels = np.asarray(picture.convert("RGB"))
    step = pixels.shape[0] // GRID
    return pixels[step // 2 :: step, step // 2 :: step]


def _write_one(folder: Path, seed: int, number: int) -> None:
    image, text = draw_one(number, seed)
    path = folder / "images" / f"{number:06d}.png"
    temporary = path.with_name(f".{path.name}.part")
    image.save(temporary, format="PNG")
    temporary.replace(path)
    write_bytes(folder / "texts" / f"{number:06d}.txt", text.encode())  # last: it says that the picture is whole


def _picture(seed: int, number: int) -> NDArray[np.uint8]:
    own = derive_seed("mini autoencoder", seed, number) >> 16
    artist = _artist("floorplan" if number % 10 < 7 else "scenes")
    return np.asarray(artist.draw(own, artist.styles[number % len(artist.styles)])[0])


def _artist(domain: str) -> Artist:
    artist = plugins.load("domains", domain).artist
    assert artist is not None
    return artist
