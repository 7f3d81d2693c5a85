"""Muon beside AdamW: how soon does a denoiser learn where its text puts the rooms?

In: what `build-mini` leaves: a model whose text encoder reads and whose denoiser has seen pictures, and coarse pictures with
their texts. Out: for each optimizer and each 50 steps, the share of the uncertainty about a cell of a held-out plan that
its text takes away (0 is what a plan looks like when nothing is said about it), and the ratio.

    loraloom build-mini --out mini-state --budget 4h
    python benchmarks/grounding.py --state mini-state

150 steps of each take some five minutes of two CPU cores, reading the texts a minute.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel

from loraloom.mini.build import windows_of
from loraloom.mini.data import facts_of
from loraloom.mini.fitting import Job
from loraloom.mini.grounding import ground, how_to_ground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of build-mini")
    parser.add_argument("--model", type=Path, help="a model folder [default: STATE/round_01/looked]")
    parser.add_argument("--steps", type=int, default=150, help="a multiple of 50")
    parser.add_argument("--adamw-rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    if args.steps < 50 or args.steps % 50:
        parser.error("--steps must be a multiple of 50: shares are measured then")
    model = args.model or args.state / "round_01" / "looked"
    with np.load(args.state / "lessons.npz") as kept:
        grids, texts = kept["grids"], [str(text) for text in kept["texts"]]
    plans = [number for number, text in enumerate(texts) if facts_of(text)]
    windows = [[ids for ids, _ in cut] for cut in windows_of(model, [texts[number] for number in plans])]
    muon = how_to_ground(args.steps)
    ways = {"muon": muon}
    ways |= {f"adamw {rate:g}": replace(muon, muon=False, learning_rate=rate) for rate in args.adamw_rates}
    shares: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for label, how in ways.items():
        lines: list[str] = []
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            unet: Any = UNet2DConditionModel
            encoder = CLIPTextModel.from_pretrained(model / "text_encoder")
            job = Job(Path(folder) / "state.safetensors", lines.append)
            ground(
                encoder, unet.from_pretrained(model / "unet"), grids[plans], windows, ["plan"] * len(plans), how, job
            )
        seconds[label] = (time.perf_counter() - began) / how.steps
        shares[label] = [float(line.split("plan ")[1]) for line in lines]
        told = "  ".join(f"{100 * share:5.1f} %" for share in shares[label])
        print(f"{label:12} {told}  each 50 steps of 32 plans; {seconds[label]:.2f} s a step", flush=True)
    best = max(numbers[-1] for label, numbers in shares.items() if label != "muon")
    ratio = shares["muon"][-1] / max(best, 1e-3)
    print(f"after {args.steps} steps muon has taken {ratio:.1f} times what the better adamw has")
    if args.json:
        record = {"machine": platform.processor(), "shares": shares, "seconds_a_step": seconds, "ratio": ratio}
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
