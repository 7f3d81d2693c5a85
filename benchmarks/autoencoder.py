"""Measure how much of a plan survives an autoencoder: the upper limit of every score of a model with it.

In: models, the number of plans of each style, deviations of white noise. Held-out plans are encoded, noise of each
deviation is added to their latents (which have a deviation of 1) in place of a denoiser's errors, and they are decoded and
read back. Out, printed and with `--json` as a file: the share of plans with exactly the same text, and of plans with the
same counts, connections and positions.

    python -m benchmarks.autoencoder --plans 200 --json benchmarks/results/autoencoder.json
    python -m benchmarks.autoencoder --models builtin:mini PATH_OF_SD15 --plans 50
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.recording import write_record
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.text.spec import parse_spec, spec_of
from loraloom.extensions.domains.floorplan.vision.reading import read
from loraloom.extensions.domains.floorplan.vocabulary import STYLES
from loraloom.generate.images import to_images
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.rng import derive_seed
from recipes.mini.autoencoder import to_pixels

SECTIONS = ("counts", "connections", "positions")
BATCH = 8


def held_out(count: int, style: str) -> list[tuple[Image.Image, str]]:
    """Held-out images and texts."""
    assert DOMAIN.dataset_generator is not None
    return [
        DOMAIN.dataset_generator.draw(derive_seed("benchmark of autoencoders", number) >> 16, style)
        for number in range(count)
    ]


@torch.inference_mode()
def rebuilt(model: DiffusionModel, images: list[Image.Image], deviation: float) -> list[Image.Image]:
    """Images encoded and decoded, with noise in between."""
    mean_bchw, _ = model.encode_images(to_pixels(np.stack([np.asarray(image) for image in images])))
    latents_bchw = model.scale_latents(mean_bchw)
    return to_images(model, latents_bchw + deviation * torch.randn_like(latents_bchw))


def shares(
    model: DiffusionModel, examples: list[tuple[Image.Image, str]], style: str, deviation: float
) -> dict[str, float]:
    """Share of plans that are read back unchanged, as a whole and by section."""
    torch.manual_seed(0)
    right: dict[str, list[bool]] = {name: [] for name in ("all", *SECTIONS)}
    for first in range(0, len(examples), BATCH):
        some = examples[first : first + BATCH]
        for image, (_, text) in zip(rebuilt(model, [each for each, _ in some], deviation), some, strict=True):
            asked, found = parse_spec(text), spec_of(read(image, STYLES[style]).plan, style)
            same = [getattr(asked, name) == getattr(found, name) for name in SECTIONS]
            for name, one in zip(right, (all(same), *same), strict=True):
                right[name].append(one)
    return {name: float(np.mean(values)) for name, values in right.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["builtin:mini"])
    parser.add_argument("--plans", type=int, default=200, help="number of plans of each style")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    examples = {style: held_out(arguments.plans, style) for style in STYLES}
    rows: list[dict[str, Any]] = []
    print("| model | style | noise | whole | " + " | ".join(SECTIONS) + " |\n|---|---|---|---|---|---|---|")
    for name in arguments.models:
        model = open_model(ModelSource(location=name))
        for style in STYLES:
            for deviation in arguments.noise:
                values = shares(model, examples[style], style, deviation)
                rows.append({"model": name, "style": style, "noise": deviation, **values})
                cells = " | ".join(f"{value:.3f}" for value in values.values())
                print(f"| {name} | {style} | {deviation:g} | {cells} |", flush=True)
    if arguments.json:
        record = {"plans": arguments.plans, "rows": rows}
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
