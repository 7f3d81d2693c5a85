"""Measure the memory of `prepare` on few and on many files.

In: two folders of small generated files, the second ten times as large. Out: peak resident memory (with children) and
images per second of `prepare` on each, side by side. Each runs in a separate process, so that neither inherits memory.

    python -m benchmarks.prepare_memory --few 2000 --many 20000
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PREPARE = """
import sys
from pathlib import Path
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.run import prepare
config = PrepareConfig(size=64, bucket_step=16, min_size=32, num_workers=2)
prepare(Path(sys.argv[1]), Path(sys.argv[2]), config, console=lambda line: None)
"""


def make_files(folder: Path, number: int) -> None:
    """Write `number` JPEGs of 96 px of smooth noise and a text for each."""
    folder.mkdir()
    rng = np.random.default_rng(number)
    for index in range(number):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        small.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{index:06d}.jpg", quality=85)
        (folder / f"{index:06d}.txt").write_text(f"drawn image {index}, " + "soft blots " * 20, encoding="utf-8")


def peak_of(source: Path, out: Path) -> tuple[float, float]:
    """Peak memory in MB and seconds of one `prepare`."""
    started = time.perf_counter()
    process = psutil.Popen([sys.executable, "-c", PREPARE, str(source), str(out)], stdout=subprocess.DEVNULL)
    peak = 0
    ticker = threading.Event()
    while process.poll() is None:
        total = 0
        try:
            for member in [process, *process.children(recursive=True)]:
                total += member.memory_info().rss
        except psutil.Error:
            continue
        peak = max(peak, total)
        ticker.wait(0.05)
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return peak / 1e6, time.perf_counter() - started


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--many", type=int, default=20_000)
    arguments = parser.parse_args()
    for number in (arguments.few, arguments.many):
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch, "source")
            make_files(source, number)
            peak_mb, seconds = peak_of(source, Path(scratch, "out"))
            print(f"{number:6,} images: peak {peak_mb:5.0f} MB, {seconds:5.1f} s, {number / seconds:5.0f} images/s")


if __name__ == "__main__":
    main()
