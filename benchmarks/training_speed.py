"""Compare training speed, memory and start with diffusers' unchanged `train_text_to_image_lora.py`, in one run.

Both sides have the same base, images, captions, batch, LoRA layers and rank, precision and steps; samples and export
checks are off on our side, validation on theirs. Whole processes are measured from outside; each speed is the difference
of a long and a short run, so that start, caching and saving cancel. Sides alternate; medians of ratios are printed.

The base has Stable Diffusion 1.5's layout (4 UNet levels, 2 ResNets a level, cross-attention in three, 12 text layers,
8x VAE with 2 ResNets a level) at a quarter of its widths and with random weights, for a laptop's CPU.
`--model` takes a real one.

    python -m venv reference && reference/bin/pip install torch torchvision diffusers transformers peft accelerate datasets
    python -m benchmarks.training_speed --reference-python reference/bin/python --reference-script train_text_to_image_lora.py

The script is examples/text_to_image/train_text_to_image_lora.py of the diffusers repository.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.recording import write_record


@dataclass(frozen=True)
class Ran:
    """One finished process."""

    seconds: float
    peak_mib: float


def run(command: list[str], log: Path) -> Ran:
    """Run a command to its end; returns wall seconds and the peak resident memory of its process tree."""
    began = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        peak, done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                try:
                    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                except OSError:
                    return
                peak = max(peak, *(int(x.split()[1]) / 1024 for x in text.splitlines() if x.startswith("VmHWM")), 0)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        sys.exit(f"failed ({code}): {' '.join(command)}\nsee {log}:\n{log.read_text(errors='replace')[-3000:]}")
    return Ran(time.perf_counter() - began, peak)


def build_model(folder: Path) -> None:
    """A quarter-width Stable Diffusion 1.5 with random weights."""
    from loraloom.extensions.families.stable_diffusion.tiny import build_tiny

    build_tiny(
        folder, widths=(80, 160, 320, 320), layers_per_block=2, text_width=192, text_layers=12,
        vae_widths=(32, 64, 128, 128), sample_size=64,
    )  # fmt: skip


def make_images(folder: Path, count: int, size_px: int) -> None:
    """Write soft gradients with boxes, and a `metadata.jsonl` that both sides read."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        x, y = np.meshgrid(np.linspace(0, 1, size_px), np.linspace(0, 1, size_px))
        mix = rng.random((3, 3))
        pixels = (255 * np.clip(np.stack([x, y, 1 - x], -1) @ mix / 2, 0, 1)).astype(np.uint8)
        top, left = rng.integers(0, size_px // 2, 2)
        pixels[top : top + size_px // 3, left : left + size_px // 3] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        rows.append({"file_name": f"{number:03d}.png", "text": f"a drawn image, number {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Sides:
    """The two commands with everything that they share."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.model = Path(args.model) if args.model else work / "model"
        self.images = work / "images"
        self.dataset = work / "dataset"

    def reference(self, steps: int) -> Ran:
        a = self.args
        out = self.work / "reference_out"
        shutil.rmtree(out, ignore_errors=True)
        return run(
            [
                a.reference_python, a.reference_script, f"--pretrained_model_name_or_path={self.model}",
                f"--train_data_dir={self.images}", "--caption_column=text", f"--output_dir={out}",
                f"--resolution={a.size}", "--center_crop", f"--train_batch_size={a.batch}", f"--max_train_steps={steps}",
                f"--rank={a.rank}", "--learning_rate=1e-4", "--seed=0", f"--mixed_precision={a.precision}",
                "--lr_scheduler=constant", "--checkpointing_steps=100000",
                f"--cache_dir={self.work / 'reference_cache'}", f"--logging_dir={self.work / 'reference_logs'}",
            ],
            self.work / "reference.log",
        )  # fmt: skip

    def ours(self, steps: int, *, keep_cache: bool = False) -> Ran:
        a = self.args
        out = self.work / "our_out"
        shutil.rmtree(out, ignore_errors=True)
        if not keep_cache:
            shutil.rmtree(self.work / "our_cache", ignore_errors=True)
        return run(
            [
                sys.executable, "-m", "loraloom", "train", "--dataset", str(self.dataset), "--model", str(self.model),
                "--out", str(out), "--batch-size", str(a.batch), "--rank", str(a.rank), "--target", "attention",
                "--max-steps", str(steps), "--mixed-precision", a.precision, "--no-samples", "--no-verify-export",
                "--caption-dropout", "0", "--checkpoint-every", "0", "--learning-rate", "1e-4", "--log-every", "1000",
                "--cache-dir", str(self.work / "our_cache"),
                *(["--compile"] if a.compile else []),
            ],
            self.work / "ours.log",
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", required=True)
    parser.add_argument("--reference-script", required=True)
    parser.add_argument("--model", help="a diffusers folder instead of the generated one")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--long", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="no", choices=["no", "fp16", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args, Path(folder))
        if not args.model:
            build_model(sides.model)
        make_images(sides.images, args.images, args.size)
        prepared = [sys.executable, "-m", "loraloom", "prepare", str(sides.images), "--out", str(sides.dataset)]
        run([*prepared, "--size", str(args.size), "--validation-share", "0"], sides.work / "prepare.log")
        figures = measure(sides, args)
    if args.json:
        write_record(args.json, figures)


def measure(sides: Sides, args: argparse.Namespace) -> dict[str, object]:
    """Alternate the sides and print every figure."""
    epoch = -(-args.images // args.batch)
    images = (args.long - epoch) * args.batch
    names = ("theirs", "ours", "speed", "memory", "first_epoch_empty", "first_epoch_full", "first_step")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        their_step, our_step = sides.reference(1), sides.ours(1, keep_cache=number > 0)
        their_epoch, our_epoch = sides.reference(epoch), sides.ours(epoch)
        our_full = sides.ours(epoch, keep_cache=True)
        their_long, our_long = sides.reference(args.long), sides.ours(args.long)
        if number == 0:
            our_step = sides.ours(1, keep_cache=True)  # the cache exists from the first run
        their_rate = images / (their_long.seconds - their_epoch.seconds)
        our_rate = images / (our_long.seconds - our_epoch.seconds)
        rows["theirs"].append(their_rate)
        rows["ours"].append(our_rate)
        rows["speed"].append(our_rate / their_rate)
        rows["memory"].append(our_long.peak_mib / their_long.peak_mib)
        rows["first_epoch_empty"].append(our_epoch.seconds / their_epoch.seconds)
        rows["first_epoch_full"].append(our_full.seconds / their_epoch.seconds)
        rows["first_step"].append(our_step.seconds / their_step.seconds)
        print(
            f"round {number + 1}: theirs {their_rate:.2f} images/s, ours {our_rate:.2f}; peak theirs "
            f"{their_long.peak_mib:.0f} MiB, ours {our_long.peak_mib:.0f} MiB; whole process of one epoch: theirs "
            f"{their_epoch.seconds:.1f} s, ours {our_epoch.seconds:.1f} s with an empty cache, {our_full.seconds:.1f} s "
            f"with a full one; of one step: theirs {their_step.seconds:.1f} s, ours {our_step.seconds:.1f} s",
            flush=True,
        )
    median = {key: statistics.median(values) for key, values in rows.items()}
    print(f"training images/s, ours / theirs: {median['speed']:.2f}")
    print(f"peak memory, ours / theirs: {median['memory']:.2f}")
    print(
        f"seconds of the first epoch from the command, ours / theirs: {median['first_epoch_empty']:.2f} with an empty "
        f"cache, {median['first_epoch_full']:.2f} with a full one"
    )
    print(f"seconds from the command to the end of a run of one step, ours / theirs: {median['first_step']:.2f}")
    settings = {key: str(value) for key, value in vars(args).items() if "reference" not in key and key != "json"}
    return {"settings": settings, "rounds": rows, "median": median}


if __name__ == "__main__":
    main()
