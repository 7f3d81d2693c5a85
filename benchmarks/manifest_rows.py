"""Measure a manifest of many rows: resident memory, CPU seconds to open it, and CPU seconds to shuffle an epoch.

In: numbers of synthesized rows, all of one image. Out: one line for each, and with `--record` a JSON file. Each number is
measured in a process of its own, so that neither inherits memory. CPU seconds are those of one core, whatever else it does.

    python -m benchmarks.manifest_rows --rows 10000 100000 1000000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.recording import machine, write_record
from loraloom.data.bucket_sampler import EpochCache, Plan
from loraloom.data.manifest import INFO_FILE, MANIFEST_FILE, read_manifest, row_of
from loraloom.protocols.data import Example
from loraloom.utils.progress import table

_SIZES = ((512, 512), (576, 448), (448, 576))
_READ = 2000


def write_rows(folder: Path, number: int) -> None:
    """A prepared dataset of `number` rows of about 640 bytes, sorted by id."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images/0.png")
    with (folder / MANIFEST_FILE).open("w", encoding="utf-8", newline="\n") as file:
        for index in range(number):
            caption = f"a photo of thing {index} on a table, with light from a window and a tree behind it"
            width, height = _SIZES[index % len(_SIZES)]
            row = Example(
                id=f"{index:08d}",
                image="images/0.png",
                caption=caption,
                caption_found=caption,
                split="validation" if index % 10 == 0 else "train",
                width=width,
                height=height,
                sha256=f"{index:064x}",
                source_sha256=f"{index:064x}",
                source_width=1024,
                source_height=1024,
                crop=(0, 0, 1024, 1024),
                scale=0.5,
                num_tokens=20,
            )
            file.write(row_of(row) + "\n")
    info = {"domain": "freetext", "settings": {"trigger": ""}}
    (folder / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")


def measure(folder: Path) -> dict[str, Any]:
    """Figures of the manifest in a folder, in this process."""
    import torch  # the order of an epoch is computed by it; its own memory is not counted

    assert torch.randperm(1).tolist() == [0]
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.process_time()
    manifest = read_manifest(folder)
    opened = time.process_time()
    held = process.memory_info().rss
    learned = manifest.split("train")
    places = np.random.default_rng(0).integers(0, len(learned), _READ)
    started_reading = time.process_time()
    for place in places:
        learned[int(place)]
    read = time.process_time() - started_reading
    known: dict[tuple[int, int], tuple[int, int]] = {}
    started_sizes = time.process_time()
    sizes = tuple(known.setdefault(size, size) for size in ((row.width, row.height) for row in learned))
    steps = EpochCache(Plan(sizes=sizes, batch_size=4, num_devices=1, accumulation=1, seed=0))
    sized = time.process_time()
    steps.step(0)
    shuffled = time.process_time()
    return {
        "rows": len(manifest.examples),
        "open_s": opened - started,
        "opened_mb": (held - before) / 1e6,
        "row_us": read / _READ * 1e6,
        "sizes_s": sized - started_sizes,
        "shuffle_s": shuffled - sized,
        "with_epoch_mb": (process.memory_info().rss - before) / 1e6,
    }


def main() -> None:
    """Write and measure every number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measure(given.measure)))
        return
    found: list[dict[str, Any]] = []
    for number in given.rows:
        with tempfile.TemporaryDirectory() as scratch:
            write_rows(Path(scratch) / "dataset", number)
            command = [sys.executable, "-m", "benchmarks.manifest_rows", "--measure", str(Path(scratch) / "dataset")]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(ran.stdout))
    header = ("rows", "open s", "MB opened", "us a row", "sizes s", "shuffle s", "MB with an epoch")
    rows = [tuple(f"{value:,.0f}" if value > 100 else f"{value:.1f}" for value in one.values()) for one in found]
    sys.stdout.write(table(header, rows) + "\n")
    if given.record:
        write_record(given.record, {"machine": machine(), "measured": found})


if __name__ == "__main__":
    main()
