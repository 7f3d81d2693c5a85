"""Estimate the time of a build of `mini` from scratch on this machine, by stage.

In: the number of steps of each stage. Every stage of the machine's recipe runs in a temporary folder with its real batch
sizes, on few images and for few steps. Out, printed and with `--json` as a file: seconds per step (between the log line
after 50 steps and the last one) and per image, and hours for the numbers of the recipe. Images are rendered with all
cores. Points of the learning curve are left out.

    python -m benchmarks.mini_build --json benchmarks/results/mini_build_cpu.json

It takes a quarter of an hour on two CPU cores.
"""

import argparse
import os
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.recording import write_record
from loraloom.utils.progress import Progress
from recipes.mini.build import best_device, build_mini
from recipes.mini.recipe import Recipe, recipe_for

FITS = {
    "autoencoder": "autoencoder_steps",
    "louder": "louder_steps",
    "decoder": "decoder_steps",
    "reading": "reading_steps",
    "first": "first_steps",
    "grounding": "grounding_steps",
    "denoiser": "steps",
    "contrast": "contrast_steps",
}
"""Name of a fit in the log to its number of steps in the recipe, in order."""
RENDERED, ENCODED = "rendered files", "encoded files"
IMAGES = 800


class Clock:
    """Records the log lines and progress bars of a build with their times."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[int, float]] = {}
        """Fit to steps done to the time of the log line."""
        self.bars: dict[str, float] = {RENDERED: 0.0, ENCODED: 0.0}
        """Progress bar to seconds between its start and its end."""

    def say(self, text: str) -> None:
        """A line of a build."""
        print(text, flush=True)
        if match := re.match(r"(\w+) (\d+)/\d+ ", text):
            self.lines.setdefault(match[1], {})[int(match[2])] = time.perf_counter()

    def bar(self, title: str) -> Progress:
        """A progress bar of a build."""
        began, before = time.perf_counter(), self.bars[title]

        def progress(done: int, total: int) -> None:
            self.bars[title] = before + time.perf_counter() - began

        return progress

    def seconds_a_step(self, fit: str) -> float:
        """Seconds per step between the first and the last log line of a fit."""
        (first, began), *_, (last, ended) = sorted(self.lines[fit].items())
        return (ended - began) / (last - first)


def rehearsal(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with its own batch sizes, on few images and for few steps."""
    counts = dict.fromkeys(FITS.values(), steps)
    sizes = dict.fromkeys(("images", "autoencoder_images", "reading_texts", "contrast_images"), IMAGES)
    return replace(recipe, **counts, **sizes, point_images=10**9)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="number of steps of each stage; more than 50")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.steps <= 50:
        parser.error("--steps must be more than 50: stages log every 50 steps")
    device = best_device()
    recipe, clock = recipe_for(device), Clock()
    with tempfile.TemporaryDirectory() as folder:
        build_mini(Path(folder), rehearsal(recipe, arguments.steps), 1e9, clock.say, clock.bar)
    rows: dict[str, tuple[int, float]] = {
        fit: (getattr(recipe, name), clock.seconds_a_step(fit)) for fit, name in FITS.items()
    }
    # Text encoder, denoiser and vision tower use the same images.
    rendered = recipe.autoencoder_images + max(recipe.reading_texts, recipe.images)
    rows["images rendered"] = (rendered, clock.bars[RENDERED] / (2 * IMAGES))
    rows["images encoded"] = (recipe.images * recipe.orientations, clock.bars[ENCODED] / (IMAGES * recipe.orientations))
    hours = {name: count * seconds / 3600 for name, (count, seconds) in rows.items()}
    print("| stage | steps or images | seconds each | hours |\n|---|---|---|---|")
    for name, (count, seconds) in rows.items():
        print(f"| {name} | {count:,} | {seconds:.4f} | {hours[name]:.2f} |")
    print(f"total: {sum(hours.values()):.1f} hours")
    if arguments.json:
        record = {
            "machine": f"{os.cpu_count()} cores" if device == "cpu" else torch.cuda.get_device_name(),
            "seconds": {name: seconds for name, (_, seconds) in rows.items()},
            "hours": hours,
            "all_hours": sum(hours.values()),
        }
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
