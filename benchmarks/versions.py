"""Compare two versions of loraloom: does the same command still give the same result, and at the same speed?

In: two checkouts, their Python. Each version, in processes of its own, synthesizes floor plans, verifies them, trains
`builtin:mini` on them and generates with the adapter of the first version. Out: what is equal bit by bit, and medians of the
ratios of CPU time; versions alternate. CPU time counts all threads, so other work on the machine disturbs it little.

    git worktree add ../before v0.1
    python -m benchmarks.versions --before ../before --after . --json versions.json
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

IMAGE_STEPS = 8


class Version:
    """One checkout, and the folder of what it made."""

    def __init__(self, name: str, checkout: Path, folder: Path) -> None:
        self.name, self.folder = name, folder / name
        paths = os.pathsep.join([str(checkout / "src"), str(Path(__file__).parents[1])])
        self.environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        self.folder.mkdir()

    def python(self, *arguments: str) -> tuple[str, float]:
        """Output and CPU seconds of a process with this version."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [sys.executable, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            sys.exit(f"{self.name}: {' '.join(arguments)[:200]}\n{ended.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def loraloom(self, *arguments: str) -> float:
        return self.python("-m", "loraloom", *arguments)[1]

    def prepare(self, plans: int) -> None:
        self.loraloom("samples", "plans", "--out", f"{self.folder}/plans", "--count", str(plans), "--seed", "3")
        self.loraloom("prepare", f"{self.folder}/plans", "--out", f"{self.folder}/data", "--domain", "floorplan")

    def train(self, name: str, steps: int) -> float:
        settings = ("--max-steps", str(steps), "--seed", "7", "--batch-size", "4", "--no-samples")
        run = f"{self.folder}/{name}"
        return self.loraloom(
            "train", "--model", "builtin:mini", "--dataset", f"{self.folder}/data", "--out", run, *settings
        )

    def generate(self, name: str, adapter: Path, prompt: str, number: int) -> float:
        settings = ("--num-images", str(number), "--seed", "5", "--steps", str(IMAGE_STEPS))
        return self.loraloom("generate", "--adapter", str(adapter), prompt, "--out", f"{self.folder}/{name}", *settings)


def print_receipts(count: int) -> None:
    """Synthesize and verify plans with the version that is imported, a line for each."""
    from loraloom import plugins

    domain: Any = plugins.load("domains", "floorplan")
    renamed = hasattr(domain, "dataset_generator")  # the names of a domain's parts before November 2026 were others
    generator = domain.dataset_generator if renamed else domain.artist
    verify = domain.verifier.verify if renamed else domain.judge.judge
    for seed in range(count):
        image, text = generator.draw(seed, "sjh")
        receipt = verify(image, text)
        print(seed, [verdict.met for verdict in receipt.verdicts], receipt.extras, round(receipt.disorder, 6))


def files_sha(folder: Path) -> str:
    """Sum over all images and texts below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".png", ".txt"}:
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def largest_difference(one: Path, two: Path) -> float:
    """Largest absolute difference of two adapters' tensors; infinite if their names differ."""
    first, second = load_file(one), load_file(two)
    if first.keys() != second.keys():
        return float("inf")
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def pixels(folder: Path) -> np.ndarray:
    """(n, h, w, 3) the images of a folder, 0 to 255."""
    return np.stack(
        [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in sorted(folder.glob("[0-9]*.png"))]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, default=Path(), help="checkout of the first version")
    parser.add_argument("--after", type=Path, default=Path(), help="checkout of the second version")
    parser.add_argument("--readings", type=int, default=2000, help="plans that are synthesized and verified")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read is not None:
        print_receipts(given.read)
        return
    from benchmarks.recording import write_record  # of the version that measures, not of one that is measured

    with tempfile.TemporaryDirectory() as folder:
        record = compare(given, Path(folder))
    for name, value in record.items():
        print(f"{name:60} {value}")
    if given.json:
        write_record(given.json, record)


def compare(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows."""
    from benchmarks.recording import machine

    sides = [Version("before", given.before.resolve(), folder), Version("after", given.after.resolve(), folder)]
    before, after = sides
    for side in sides:
        side.prepare(32)
    read = ("-m", "benchmarks.versions", "--read", str(given.readings))
    readings = [side.python(*read)[0].splitlines() for side in sides]
    prompt = min((before.folder / "plans").rglob("*.txt")).read_text(encoding="utf-8").strip()
    cost: dict[str, list[float]] = {"train": [], "generate": []}
    for number in range(given.rounds):
        train, image = [], []
        for side in sides:
            name = f"run{number}"
            train.append(side.train(name, given.steps + 4) - side.train(f"short{number}", 4))
            adapter = before.folder / "run0"
            many, one = (side.generate(f"images{number}_{count}", adapter, prompt, count) for count in (9, 1))
            image.append(many - one)
        cost["train"].append(train[1] / train[0])
        cost["generate"].append(image[1] / image[0])
    images = [pixels(side.folder / "images0_9") for side in sides]
    return {
        "machine": machine(),
        "load average": os.getloadavg()[0],
        "synthesized plans and texts equal": files_sha(before.folder / "plans") == files_sha(after.folder / "plans"),
        f"receipts that differ, of {given.readings} plans": sum(a != b for a, b in zip(*readings, strict=True)),
        f"largest difference of the adapters after {given.steps + 4} steps": largest_difference(
            before.folder / "run0" / "adapter.safetensors", after.folder / "run0" / "adapter.safetensors"
        ),
        "largest difference of 9 images with one adapter, of 255": int(np.abs(images[0] - images[1]).max()),
        "CPU time of a training step, after / before, median": median(cost["train"]),
        "CPU time of an image, after / before, median": median(cost["generate"]),
        "rounds": cost,
    }


if __name__ == "__main__":
    main()
