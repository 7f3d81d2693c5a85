"""Measure the memory and the time of `inspect` and `prepare` on few and on many files.

In: numbers of generated JPEGs of 96 px, each with a text. Out: for each number and verb the peak memory with all worker
processes, the seconds and the CPU seconds; with `--record` a JSON file. Each is measured in processes of its own, so that
none inherits memory. Memory is the proportional set size: pages that workers share with their parent are counted once.

    python -m benchmarks.many_files --files 1000 10000 30000 --workers 2
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.recording import machine, write_record
from loraloom.config.inspect import InspectConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.prepare.inspection.run import inspect_folder
from loraloom.prepare.run import prepare
from loraloom.utils.progress import table

VERBS = ("inspect", "prepare")
_SETTINGS = {"size": 64, "bucket_step": 16, "min_size": 32}


def make_files(folder: Path, number: int) -> None:
    """Write `number` JPEGs of 96 px of smooth noise and a text for each."""
    folder.mkdir()
    rng = np.random.default_rng(number)
    for index in range(number):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        small.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{index:06d}.jpg", quality=85)
        (folder / f"{index:06d}.txt").write_text(f"drawn image {index}, " + "soft blots " * 20, encoding="utf-8")


def carry_out(verb: str, source: Path, out: Path, workers: int) -> None:
    """One verb on one folder, in this process."""
    values = {**_SETTINGS, "num_workers": workers}
    if verb == "inspect":
        inspect_folder(source, read_settings(InspectConfig, values=values))
    else:
        prepare(source, out, read_settings(PrepareConfig, values=values), console=lambda line: None)


def measure(verb: str, source: Path, out: Path, workers: int) -> dict[str, Any]:
    """Peak memory, seconds and CPU seconds of one verb in processes of its own."""
    command = [sys.executable, "-m", "benchmarks.many_files", "--measure", verb, str(source), str(out)]
    started, load = time.perf_counter(), os.getloadavg()[0]
    process = psutil.Popen([*command, "--workers", str(workers)])
    peak, cpu = 0, 0.0
    while process.poll() is None:
        total = 0
        try:
            for member in (process, *process.children(recursive=True)):
                total += member.memory_full_info().pss
            times = process.cpu_times()
            own = times.user + times.system + times.children_user + times.children_system
            for child in process.children(recursive=True):
                own += sum(child.cpu_times()[:2])
            cpu = max(cpu, own)
        except psutil.Error:
            continue
        peak = max(peak, total)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{verb} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return {"peak_mb": peak / 1e6, "seconds": seconds, "cpu_seconds": cpu, "load": (load + os.getloadavg()[0]) / 2}


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--record", type=Path, help="JSON file to write")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        verb, source, out = given.measure
        carry_out(verb, Path(source), Path(out), given.workers)
        return
    found: list[dict[str, Any]] = []
    for number in given.files:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch, "source")
            make_files(source, number)
            for verb in given.verbs:
                figures = measure(verb, source, Path(scratch, "out"), given.workers)
                found.append({"verb": verb, "files": number, "workers": given.workers, **figures})
                sys.stdout.write(json.dumps(found[-1]) + "\n")
                sys.stdout.flush()
                if given.record:
                    write_record(given.record, {"machine": machine(), "measured": found})
    header = ("verb", "files", "peak MB", "seconds", "files a CPU second", "load")
    rows = [
        (
            row["verb"],
            f"{row['files']:,}",
            f"{row['peak_mb']:.0f}",
            f"{row['seconds']:.0f}",
            f"{row['files'] / row['cpu_seconds']:.0f}",
            f"{row['load']:.1f}",
        )
        for row in found
    ]
    sys.stdout.write(table(header, rows) + "\n")


if __name__ == "__main__":
    main()
