"""Compare the speed of `prepare` with two workers and of one process of plain Pillow that does the same work.

In: generated JPEGs of about 1500 px with a text each, or a folder (`--source`). Out: images per second of both,
alternating over several rounds, every ratio, the median ratio, and the peak memory with all child processes. The plain
loop opens, rotates by EXIF, converts, resizes by Lanczos to cover, crops the centre, saves PNG at the same level, hashes
the source and reads the text. `prepare` does the same and also finds near-duplicates, splits, journals and reports. It
requires as many idle cores as workers: the cores used by other processes are printed for each round, and the median is
over all rounds.

    python -m benchmarks.prepare_speed --images 200 --rounds 5
"""

import argparse
import hashlib
import io
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps

from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.run import prepare

SIZE_PX = 512
SUFFIXES = {".jpg", ".jpeg", ".png"}


def make_files(folder: Path, number: int) -> None:
    """Write `number` JPEGs with gradients, boxes and noise, 1200 to 1800 px a side, and a text for each."""
    folder.mkdir(parents=True)
    for index in range(number):
        rng = np.random.default_rng(index)
        width, height = (int(side) for side in rng.integers(1200, 1800, 2))
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-12, 12, (3, 3))]
        pixels = 128 + 80 * np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 1))
        for _ in range(12):
            left, top = int(rng.integers(0, width - 100)), int(rng.integers(0, height - 100))
            side = int(rng.integers(40, 400))
            pixels[top : top + side, left : left + side] = rng.uniform(0, 255, 3)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=90)
        (folder / f"{index:05d}.txt").write_text(f"drawn image number {index}", encoding="utf-8")


def plain_pillow(source: Path, out: Path) -> None:
    """Process the images one after the other in one process."""
    out.mkdir(parents=True)
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES):
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        text = path.with_suffix(".txt")
        if text.exists():
            text.read_text(encoding="utf-8")
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        scale = max(SIZE_PX / image.width, SIZE_PX / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        left, top = (image.width - SIZE_PX) // 2, (image.height - SIZE_PX) // 2
        image = image.crop((left, top, left + SIZE_PX, top + SIZE_PX))
        image.save(out / f"{path.parent.name}-{path.stem}.png", compress_level=1)


def ours(source: Path, out: Path, num_workers: int) -> None:
    """`prepare` with its defaults except the crop, which the plain loop does not have."""
    values = {"size": SIZE_PX, "crop": "center", "num_workers": num_workers, "caption_template": "a photo"}
    config = read_settings(PrepareConfig, values=values)
    prepare(source, out, config, console=lambda line: None)


def cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process with its finished children, and of the whole machine."""
    me, own = psutil.Process(), 0.0
    # Workers started by a fork server are its children; their time is in its account once they have ended.
    for process in [me, *me.children(recursive=True)]:
        used = process.cpu_times()
        own += used.user + used.system + used.children_user + used.children_system
    machine = psutil.cpu_times()
    return own, machine.user + machine.system


def measured(work: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds, the peak resident memory of this process and its children in MB, and cores used by other processes."""
    me, peak, stop = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    (own, machine), started = cpu_seconds(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    own_after, machine_after = cpu_seconds()
    stop.set()
    watcher.join()
    others = max(0.0, (machine_after - machine) - (own_after - own)) / seconds
    return seconds, peak / 1e6, others


def images_of(given: Path | None, scratch: Path, number: int) -> tuple[Path, int]:
    """The folder that was given, or one of generated images; and how many images it holds."""
    source = given or scratch / "source"
    if given is None:
        make_files(source, number)
    return source, sum(path.suffix.lower() in SUFFIXES for path in source.rglob("*"))


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder of images; default: generated ones")
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source, number = images_of(arguments.source, folder, arguments.images)
        print(f"{number} images, {arguments.rounds} rounds, {arguments.workers} workers against one plain process")
        ratios: list[float] = []
        for turn in range(arguments.rounds):
            plain_s, plain_mb, plain_others = measured(lambda: plain_pillow(source, folder / "plain"))
            ours_s, ours_mb, ours_others = measured(lambda: ours(source, folder / "ours", arguments.workers))
            shutil.rmtree(folder / "plain")
            shutil.rmtree(folder / "ours")
            ratios.append(plain_s / ours_s)
            print(
                f"round {turn + 1}: plain {number / plain_s:6.1f}/s {plain_mb:5.0f} MB, "
                f"prepare {number / ours_s:6.1f}/s {ours_mb:5.0f} MB, ratio {ratios[-1]:.2f} "
                f"(cores busy with others: {plain_others:.2f}, {ours_others:.2f})"
            )
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
