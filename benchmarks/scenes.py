"""Measure how well images of the built-in base meet captions of scenes: colours, counts, places, backgrounds.

In: a model, the number of captions. Captions are of flat scenes with held-out seeds, on a plain background, with one kind
of things or two of different colours. Pixels in other colours than the background are things; the facts of a caption (the
domain's `facts`) are checked on them:

- background: the colour of most of the image's border;
- colours: at least `PRESENT` of the things' pixels are nearest to it;
- counts, for captions with one kind of things: the number of pieces;
- places: the centre of the things, or of those in that colour.

Captions of several things are hard: their facts, except the background, are also counted separately.

Out, printed and with `--json` as a file: the share of facts met, of each sort, in the true images (the upper limit of
this measure), in images of the model, one for each caption, and in the true images of other captions (chance level).

    python -m benchmarks.scenes --captions 200

It takes three minutes on two CPU cores.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.recording import write_record
from loraloom.config.generate import GenerateConfig
from loraloom.extensions.domains.scenes.facts import Fact, facts
from loraloom.extensions.domains.scenes.pen import COLOURS
from loraloom.extensions.domains.scenes.rendering import synthesize
from loraloom.generate.session import open_session
from loraloom.protocols.model import ModelSource
from loraloom.utils.rng import derive_seed

HELD_OUT = "benchmark of scenes"
DISTINCT = 60
"""Smallest RGB distance from the background's colour at which a pixel belongs to a thing."""
SPECK = 0.3
"""Pieces smaller than this share of the largest one are not counted."""
PRESENT = 0.08
LEFT_ENDS, RIGHT_STARTS = 108, 148
NAMES, PALETTE = list(COLOURS), np.array(list(COLOURS.values()), np.float32)
SEVERAL = "of several things"
SORTS = {"background-of": "background", "colour-of": "colours", "how-many": "counts", "place-of": "places"}


def held_out(count: int) -> list[tuple[Image.Image, str]]:
    """Held-out images and captions."""
    found: list[tuple[Image.Image, str]] = []
    number = 0
    while len(found) < count:
        made = synthesize(derive_seed(HELD_OUT, number) >> 16)
        number += 1
        groups = made.truth["groups"]
        apart = len(groups) == len({group["thing"] for group in groups}) == len({group["colour"] for group in groups})
        # A caption that omits a thing is met by fewer things than its image has.
        whole = {group["thing"] for group in groups} == {*kinds_of(facts(made.caption))}
        if made.truth["background"] and len(groups) <= 2 and apart and whole:
            found.append((made.image, made.caption))
    return found


def kinds_of(said: list[Fact]) -> list[str]:
    """Kinds of the things that a caption names."""
    return [thing for _, relation, thing in said if relation == "how-many" and thing not in COLOURS]


def named(pixels_n3: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices into `NAMES` of the nearest colours."""
    return np.abs(pixels_n3[:, None] - PALETTE).sum(axis=2).argmin(axis=1)


def verdicts(image: Image.Image, said: list[Fact]) -> Iterator[tuple[str, bool]]:
    """Sort of fact and whether it is met, for visible facts."""
    pixels = np.asarray(image, np.float32)
    border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3)])
    ground = np.median(border, axis=0)
    things = np.asarray(ndimage.binary_opening(np.abs(pixels - ground).sum(axis=2) > DISTINCT), np.bool_)
    colours = np.full(things.shape, -1)
    colours[things] = named(pixels[things])
    kinds = kinds_of(said)
    for subject, relation, thing in said:
        if relation == "background-of":
            yield SORTS[relation], NAMES[int(named(ground[None])[0])] == subject
        elif relation == "colour-of":
            seen = (colours == NAMES.index(subject)).sum()
            yield SORTS[relation], bool(seen >= PRESENT * max(1, things.sum()))
        elif relation == "how-many" and kinds == [thing]:
            numbered = np.zeros(things.shape, np.int32)
            ndimage.label(ndimage.binary_dilation(things, iterations=3), output=numbered)
            sizes = np.bincount(numbered.ravel())[1:]
            yield SORTS[relation], sum(sizes >= SPECK * sizes.max(initial=1)) == int(subject)
        elif relation == "place-of" and subject in ("left", "middle", "right"):
            if kinds == [thing]:
                yield SORTS[relation], side(things) == subject
            elif len(kinds) > 1 and thing in COLOURS:
                yield SORTS[relation], side(colours == NAMES.index(thing)) == subject


def side(mask: NDArray[np.bool_]) -> str:
    """Side of the image with the centre of a mask."""
    if not mask.any():
        return ""
    middle = float(np.nonzero(mask)[1].mean())
    return "left" if middle < LEFT_ENDS else "right" if middle > RIGHT_STARTS else "middle"


def shares(images: list[Image.Image], captions: list[str]) -> dict[str, float]:
    """Share of facts met, by sort."""
    met: dict[str, Counter[bool]] = defaultdict(Counter)
    for image, caption in zip(images, captions, strict=True):
        said = facts(caption)
        for sort, good in verdicts(image, said):
            met[sort][good] += 1
            met["all"][good] += 1
            if several(said) and sort != SORTS["background-of"]:
                met[SEVERAL][good] += 1
    return {sort: met[sort][True] / met[sort].total() for sort in (*SORTS.values(), SEVERAL, "all") if met[sort]}


def several(said: list[Fact]) -> bool:
    """Whether a caption names more than one thing."""
    return len(kinds_of(said)) > 1 or any(fact[1] == "how-many" and fact[0] != "1" for fact in said)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:mini")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--guidance", type=float, help="guidance scale; default is the model's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=Path, help="folder for the first 24 generated images, to look at")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    examples = held_out(arguments.captions)
    captions = [caption for _, caption in examples]
    settings = GenerateConfig(
        sampler=arguments.sampler, steps=arguments.steps, guidance_scale=arguments.guidance, batch_size=8
    )
    session = open_session(settings, source=ModelSource(location=arguments.model), domain="scenes")
    requests = [replace(each, seed=1000 + number) for number, each in enumerate(session.requests(captions))]
    images = [
        source_image.image
        for start in range(0, len(requests), 8)
        for source_image in session.generate(requests[start : start + 8])
    ]
    true = [image for image, _ in examples]
    rows = {
        "true images": shares(true, captions),
        "generated": shares(images, captions),
        "another caption's": shares([*true[1:], true[0]], captions),
    }
    print("| | " + " | ".join(rows["generated"]) + " |\n" + "|---" * (len(rows["generated"]) + 1) + "|")
    for title, row in rows.items():
        print(f"| {title} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    if arguments.images:
        arguments.images.mkdir(parents=True, exist_ok=True)
        for number, (made, caption) in enumerate(zip(images[:24], captions, strict=False)):
            both = Image.new("RGB", (512, 256))
            both.paste(true[number], (0, 0))
            both.paste(made, (256, 0))
            both.save(arguments.images / f"{number:02d}.png")
            print(f"{number:02d}  {caption}")
    if arguments.json:
        record = {
            "model": arguments.model,
            "captions": arguments.captions,
            "settings": session.config.model_dump(),
            "values": rows,
        }
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
