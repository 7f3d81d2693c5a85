"""Measure the cost of checkpoints, as a share of a run that saves every 100 steps.

Out: seconds per save, seconds per step, and the share. The base has Stable Diffusion 1.5's layout at a quarter of its
widths (see `training_speed.py`), rank 16, batch 4, 256 px. A real base has longer steps and larger saves (rank 16 on SD
1.5's cross-attention is 3 MB), so the small model alone does not make the share smaller.

    uv run python -m benchmarks.checkpoint_cost
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.training_speed import build_model, make_images
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig
from loraloom.prepare.run import prepare
from loraloom.train.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=4, help="steps between saves; small, to measure many of them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_model(folder / "model")
        make_images(folder / "images", 16, 256)
        prepare(
            folder / "images", folder / "dataset", PrepareConfig(size=256, validation_share=0), console=lambda t: None
        )
        config = RunConfig.model_validate(
            {
                "model": {"source": str(folder / "model")},
                "data": {"dataset": str(folder / "dataset"), "batch_size": 4},
                "train": {"output": str(folder / "run"), "max_steps": args.steps, "log_every": 1},
                "checkpoints": {"every": args.every},
                "samples": {"enabled": False},
                "export": {"verify": False},
            }
        )
        began = time.perf_counter()
        train(config, say=lambda text: None)
        seconds = time.perf_counter() - began
        rows = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    step = statistics.median(4 / row["images_per_second"] for row in rows if row["kind"] == "train")
    save = statistics.median(row["seconds"] for row in rows if row["kind"] == "checkpoint")
    print(f"{args.steps} steps and {args.steps // args.every} saves in {seconds:.1f} s")
    print(f"median step {step:.3f} s, median save {save:.3f} s")
    print(f"share of a run that saves every 100 steps: {100 * save / (100 * step + save):.2f} %")


if __name__ == "__main__":
    main()
