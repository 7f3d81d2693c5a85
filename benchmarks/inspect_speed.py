"""Measure `inspect` and `prepare` against plain Pillow, and over worker processes.

In: generated JPEGs of about 1500 px with a text each (`--images`), or a folder (`--source`); with `--sd-scripts FOLDER` a
checkout of kohya's sd-scripts, whose own bucket functions then resize and crop the same images. Out: images per second and
peak memory with all child processes, alternating over rounds; the cores that other processes used meanwhile are printed,
because rates on a busy machine are lower bounds. `--record` writes the medians as JSON.

    python -m benchmarks.inspect_speed --images 120 --rounds 3 --workers 1,2
"""

import argparse
import ast
import importlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.prepare_speed import SIZE_PX, SUFFIXES, cpu_seconds, images_of, measured, ours, plain_pillow
from benchmarks.recording import machine, write_record
from loraloom.config.inspect import InspectConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.inspection.run import inspect_folder

SD_SCRIPTS = {
    "utils": {
        "resize_image",
        "get_cv2_interpolation",
        "get_pil_interpolation",
        "pil_resize",
        "validate_interpolation_fn",
    },
    "model_util": {"make_bucket_resolutions"},
    "train_util": {"BucketManager", "load_image", "trim_and_resize_if_required"},
}
"""File of sd-scripts' library -> the functions that lead from a file to an array."""


def inspect_images(source: Path, num_workers: int) -> None:
    """`inspect` with its defaults."""
    inspect_folder(source, read_settings(InspectConfig, values={"size": SIZE_PX, "num_workers": num_workers}))


def plain_measures(source: Path) -> None:
    """What a script of a user would do in one process: open, convert, thumbnail, mean, and an average hash."""
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        small = image.resize((8, 8), Image.Resampling.LANCZOS).convert("L")
        values = np.asarray(small)
        _ = (values > values.mean()).tobytes(), np.asarray(image).mean()
        image.thumbnail((200, 200))


def sd_scripts_resize(checkout: Path, folder: Path) -> Callable[[Path], None]:
    """The way from a file to the array that sd-scripts gives its VAE, by its own functions.

    They are `load_image`, `BucketManager.select_bucket` and `trim_and_resize_if_required` of `library/train_util.py`. That
    module imports its whole trainer, so the functions that are used are copied into a module in a temporary folder. Requires
    opencv, which they resize with.
    """
    parts = ["import logging, math, random", "from typing import *", "import cv2, numpy as np", "from PIL import Image"]
    parts += ["logger = logging.getLogger('sd-scripts')"]
    for name, wanted in SD_SCRIPTS.items():
        text = (checkout / "library" / f"{name}.py").read_text(encoding="utf-8")
        nodes = [node for node in ast.parse(text).body if getattr(node, "name", "") in wanted]
        if len(nodes) < len(wanted):
            sys.exit(f"library/{name}.py lacks some of {sorted(wanted)}")
        parts += [ast.get_source_segment(text, node) or "" for node in nodes]
    parts += ["class model_util: make_bucket_resolutions = staticmethod(make_bucket_resolutions)"]
    (folder / "sd_scripts_parts.py").write_text("\n\n".join(parts), encoding="utf-8")
    sys.path.insert(0, str(folder))
    scripts: Any = importlib.import_module("sd_scripts_parts")

    def work(source: Path) -> None:
        manager = scripts.BucketManager(False, (SIZE_PX, SIZE_PX), 256, 1024, 64)
        manager.make_buckets()
        for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES):
            array = scripts.load_image(str(path), False)
            size, resized, _ = manager.select_bucket(array.shape[1], array.shape[0])
            scripts.trim_and_resize_if_required(False, array, size, resized)

    return work


def speed(arguments: argparse.Namespace) -> None:
    """Rates of all programs, alternating."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source, number = images_of(arguments.source, folder, arguments.images)
        works: dict[str, Callable[[Path], None]] = {
            "plain Pillow, resize and save": lambda out: plain_pillow(source, out),
            "plain Pillow, measure only": lambda out: plain_measures(source),
        }
        if arguments.sd_scripts:
            scripts = sd_scripts_resize(arguments.sd_scripts, folder)
            works["sd-scripts, to an array"] = lambda out: scripts(source)
        for count in arguments.workers:
            works[f"prepare, {count} workers"] = lambda out, n=count: ours(source, out, n)
            works[f"inspect, {count} workers"] = lambda out, n=count: inspect_images(source, n)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        busy: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(arguments.rounds):
            for name, work in works.items():
                out = folder / f"out-{turn}-{len(rates[name])}-{list(works).index(name)}"
                before = cpu_seconds()[0]
                seconds, peak, others = measured(lambda w=work, o=out: w(o))
                rates[name].append((number / seconds, number / (cpu_seconds()[0] - before)))
                busy[name].append(others)
                print(
                    f"round {turn + 1}: {name:30s} {rates[name][-1][0]:6.1f}/s, {rates[name][-1][1]:6.1f} per CPU second, "
                    f"{peak:5.0f} MB, others {others:.2f} cores",
                    flush=True,
                )
        medians: dict[str, dict[str, float]] = {}
        for name, found in rates.items():
            wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
            print(f"median {name:30s} {wall:6.1f}/s, {cpu:6.1f} per CPU second")
            others = statistics.median(busy[name])
            medians[name] = {"images_a_second": wall, "images_a_cpu_second": cpu, "cores_busy_with_others": others}
        if arguments.record:
            figures = {"machine": machine(), "images": number, "rounds": arguments.rounds, "medians": medians}
            write_record(arguments.record, figures)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder of images; default: generated ones")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    parser.add_argument("--sd-scripts", type=Path, help="checkout of kohya's sd-scripts")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    speed(parser.parse_args())


if __name__ == "__main__":
    main()
