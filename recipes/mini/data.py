"""Training data of `mini`: plans in the plain style and in random colours, scenes in all styles, each with a true text.

In: a folder, a count, a seed. Out: files of up to `PART` images of one world each. Image n of a world depends only on the
seed and n, so that more can be added later. A plan has about thirteen colours: as packed indices into a palette it takes
200 bytes, as a PNG 2,000.
"""

import json
import lzma
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.protocols.domain import DatasetGenerator
from loraloom.utils.parallel import spread
from loraloom.utils.processes import usable_cores
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed

SIZE_PX = 256
ORIENTATIONS = 8
"""Orientations of an image: turned by 0, 90, 180 and 270 degrees, and these mirrored; see `DatasetGenerator.turned`."""

GRID = 16
"""Cells along a side of the coarse images for grounding the denoiser."""

PART = 500
"""Largest number of images in a file."""

PALETTE_ROWS = 16

PLAN_SHARE = 0.7
"""Share of plans among the images; the rest are scenes, half of them in the flat style."""

VARIED_SHARE = 0.25
"""Share of plans with random colours, different each time, and another header. What a denoiser learns about rooms and
walls must not depend on one palette, or an adapter with another palette would have to learn all of it again."""

RETOLD_SHARE = 0.5
"""Share of plan texts that are paraphrased; the others have the order that users write, which is learned sooner."""

COLOUR_DISTANCE = 36.0
"""Smallest distance of two colours of a random palette, in RGB; living room and ground of real plans are 35 apart."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some images of one world with their texts.

    Attributes:
        texts: Text of each image.
        turned: Text of each image in each of the `ORIENTATIONS`, None where there is no true one; empty for images whose
            texts are not used.
        marks: (n, 256, 256) uint8 rows of `palettes`; None if images have too many colours.
        palettes: (n, 16, 3) uint8 colours.
        pixels: (n, 256, 256, 3) uint8 pixels; None if there are `marks`.
    """

    texts: Sequence[str]
    marks: NDArray[np.uint8] | None = None
    palettes: NDArray[np.uint8] | None = None
    pixels: NDArray[np.uint8] | None = None
    turned: Sequence[Sequence[str | None]] = ()

    def images(self) -> NDArray[np.uint8]:
        """(n, 256, 256, 3) uint8."""
        if self.pixels is not None:
            return self.pixels
        assert self.marks is not None and self.palettes is not None
        return np.stack([palette[marks] for palette, marks in zip(self.palettes, self.marks, strict=True)])


def draw_plan(number: int, seed: int) -> tuple[Image.Image, str]:
    """Plan `number` in the plain style, and its text."""
    rng = np.random.default_rng(derive_seed("mini plan", seed, number))
    own = derive_seed("mini picture", seed, number) >> 16
    dataset_generator = _dataset_generator("floorplan")
    image, text = dataset_generator.draw(own, "plain")
    return image, dataset_generator.paraphrase(text, own) if rng.random() < RETOLD_SHARE else text


def draw_scene(number: int, seed: int) -> tuple[Image.Image, str]:
    """Scene `number` and its caption."""
    rng = np.random.default_rng(derive_seed("mini scene", seed, number))
    dataset_generator = _dataset_generator("scenes")
    style = "flat" if rng.random() < 0.5 else str(rng.choice(dataset_generator.styles))
    return dataset_generator.draw(derive_seed("mini picture", seed, number) >> 16, style)


def draw_other(number: int, seed: int) -> tuple[Image.Image, str]:
    """Plan `number` in any style but the plain one, for the autoencoder, which must encode styles of later adapters."""
    dataset_generator = _dataset_generator("floorplan")
    others = [style for style in dataset_generator.styles if style != "plain"]
    return dataset_generator.draw(derive_seed("mini autoencoder", seed, number) >> 16, others[number % len(others)])


WORLDS: dict[str, Callable[[int, int], tuple[Image.Image, str]]] = {
    "plans": draw_plan, "scenes": draw_scene, "others": draw_other,
}  # fmt: skip


DOMAINS = {"plans": "floorplan", "scenes": "scenes"}
"""World to the domain that generates its images, its texts in other orientations, and its facts."""


def facts_of(text: str, world: str) -> list[tuple[str, str, str]]:
    """The facts of a text of a world, or of a part of a text."""
    return _dataset_generator(DOMAINS[world]).facts(text)


def parts_of(folder: Path, world: str, count: int) -> list[Path]:
    """Paths of the files for `count` images of a world."""
    starts = range(0, count, PART)
    return [folder / f"{world}_{start:07d}_{min(PART, count - start):03d}.npz" for start in starts]


def write_parts(files: Sequence[Path], seed: int, progress: Progress | None = None, deadline: float = inf) -> bool:
    """Write the missing files; one process for each core.

    Returns:
        Whether all files exist; False after `deadline` (of `time.monotonic`), and the next call continues.
    """
    missing = [file for file in files if not file.is_file()]
    for file in missing:
        file.parent.mkdir(parents=True, exist_ok=True)
    with closing(spread(partial(_write_part, seed), missing, usable_cores())) as written:
        for done, _ in enumerate(written, len(files) - len(missing) + 1):
            if progress:
                progress(done, len(files))
            if monotonic() > deadline:
                return done == len(files)
    return True


def _write_part(seed: int, file: Path) -> None:
    world, start, count = file.stem.split("_")
    numbers = range(int(start), int(start) + int(count))
    drawn = [WORLDS[world](number, seed) for number in numbers]
    texts = [text for _, text in drawn]
    turned = [[*_dataset_generator(DOMAINS[world]).turned(*pair)] for pair in drawn] if world in DOMAINS else []
    arrays: dict[str, Any] = {}
    if world == "scenes":
        arrays["pixels"] = np.stack([np.asarray(image) for image, _ in drawn])
    else:
        indexed = [indexed_of(np.asarray(image)) for image, _ in drawn]
        palettes = np.stack([palette for _, palette in indexed])
        for place, number in enumerate(numbers):
            rng = np.random.default_rng(derive_seed("mini varied", seed, number))
            if world == "plans" and rng.random() < VARIED_SHARE:
                palettes[place] = made_up_palette(rng)
                texts[place] = texts[place].replace("Plain", "Varied", 1)
                turned[place] = [text and text.replace("Plain", "Varied", 1) for text in turned[place]]
        arrays["packed"] = _packed(np.stack([marks for marks, _ in indexed]).tobytes())
        arrays["palettes"] = palettes
    arrays["texts"] = _packed(json.dumps(texts).encode())
    arrays["turned"] = _packed(json.dumps(turned).encode())
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    temporary.replace(file)


def read_part(file: Path) -> Part:
    """What `write_parts` wrote."""
    with np.load(file) as kept:
        texts = json.loads(lzma.decompress(kept["texts"].tobytes()))
        turned = json.loads(lzma.decompress(kept["turned"].tobytes())) if "turned" in kept else []
        if "pixels" in kept:
            return Part(texts, pixels=kept["pixels"], turned=turned)
        marks = np.frombuffer(
            bytearray(lzma.decompress(kept["packed"].tobytes())), np.uint8
        )  # torch requires a writable array
        return Part(texts, marks.reshape(len(texts), SIZE_PX, SIZE_PX), kept["palettes"], turned=turned)


def plain_plans(part: Part) -> Part:
    """The flat images of a part that are plans in the plain style, without their texts."""
    assert part.marks is not None and part.palettes is not None
    plain = np.array([text.startswith("Plain") for text in part.texts], np.bool_)
    return Part([], part.marks[plain], part.palettes[plain])


def _packed(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(lzma.compress(data), np.uint8)


def indexed_of(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(h, w, 3) of at most 16 colours as (h, w) rows of a palette and the (16, 3) palette, padded with black."""
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    found, places = np.unique(codes, return_inverse=True)
    palette = np.zeros((PALETTE_ROWS, 3), np.uint8)
    palette[: len(found)] = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
    return places.reshape(codes.shape).astype(np.uint8), palette


def made_up_palette(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(16, 3) uint8 random colours at least `COLOUR_DISTANCE` apart."""
    colours: list[NDArray[np.int64]] = []
    while len(colours) < PALETTE_ROWS:
        colour = rng.integers(0, 256, 3)
        if all(np.linalg.norm(colour - other) >= COLOUR_DISTANCE for other in colours):
            colours.append(colour)
    return np.stack(colours).astype(np.uint8)


def grids_of(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 256, 256, 3) to (n, GRID, GRID, 3): the colour in the middle of each cell; a mean over the cell would mix in its
    walls."""
    step = images.shape[1] // GRID
    return images[:, step // 2 :: step, step // 2 :: step]


def _dataset_generator(domain: str) -> DatasetGenerator:
    dataset_generator = plugins.load("domains", domain).dataset_generator
    assert dataset_generator is not None
    return dataset_generator
