"""Measure text-image retrieval with the CLIP of `mini`.

In: the number of images of each world, with held-out seeds. For each image its own text is ranked among the texts of all
images of that world by cosine similarity; a long text is the mean over its windows. Out, printed: the share of images
whose own text is first, and among the first five, and its median rank, beside chance levels.

    python -m benchmarks.vision_tower --images 100
    python -m benchmarks.vision_tower --images 100 --model FOLDER_OF_A_MODEL_WITH_clip
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from loraloom import plugins
from loraloom.models.loading import resolve
from loraloom.protocols.model import ModelSource
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import derive_seed
from recipes.mini.bank import windows_of
from recipes.mini.contrast import compare

WORLDS = {"floorplan": "plain", "scenes": "flat"}


def examples_of(domain: str, style: str, count: int) -> list[tuple[Image.Image, str]]:
    """Held-out images and their texts."""
    dataset_generator = plugins.load("domains", domain).dataset_generator
    return [
        dataset_generator.draw(derive_seed("benchmark of the vision tower", number) >> 16, style)
        for number in range(count)
    ]


@torch.inference_mode()
def similarities(folder: Path, examples: list[tuple[Image.Image, str]]) -> Tensor:
    """(images, texts) scaled cosine similarities."""
    clip: Any = CLIPModel.from_pretrained(folder / "clip", torch_dtype=torch.float32).eval()
    processor: Any = CLIPProcessor.from_pretrained(folder / "clip")
    shown = processor(images=[image for image, _ in examples], return_tensors="pt")
    windows = windows_of(folder, [text for _, text in examples])
    ids = torch.tensor([ids for own in windows for ids, _ in own])
    by_window = compare(clip, shown["pixel_values"], ids).split([len(own) for own in windows], dim=1)
    return torch.stack([own.mean(1) for own in by_window], dim=1)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:mini", help="a model folder with clip/ in it")
    parser.add_argument("--images", type=int, default=100, help="number of images of each world")
    arguments = parser.parse_args()
    folder = resolve(ModelSource(location=arguments.model)).path("")
    print(
        "| world | images | first | chance level | among 5 | chance level | median rank |\n|---|---|---|---|---|---|---|"
    )
    for domain, style in WORLDS.items():
        with quiet():
            scores = similarities(folder, examples_of(domain, style, arguments.images))
        ranks = (scores > scores.diag()[:, None]).sum(1) + 1
        first, five = ((ranks <= best).float().mean() for best in (1, 5))
        cells = (
            f"{first:.3f} | {1 / len(ranks):.3f} | {five:.3f} | {min(1, 5 / len(ranks)):.3f} | {int(ranks.median())}"
        )
        print(f"| {domain} | {len(ranks)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
