"""Compare Muon with AdamW in grounding a denoiser: the places of rooms from their text.

In: a build folder after the first short fit: a model with a trained text encoder, a briefly trained denoiser, and
synthesised plans. Out: for each optimizer and each 50 steps, the share of the uncertainty about a cell of a held-out plan
that its text removes (0 without any information from the text), and the ratio.

    python -m recipes.mini build --out mini-state --budget 4h
    python -m benchmarks.grounding --state mini-state

150 steps of each take about five minutes on two CPU cores, encoding the plans takes five more.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.recording import write_record
from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource
from recipes.mini.bank import fill_bank
from recipes.mini.build import FIRST, best_device
from recipes.mini.fitting import Job, Way, read_average
from recipes.mini.grounding import ground, how_to_ground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of a build of recipes.mini")
    parser.add_argument("--files", type=int, default=16, help="number of files of plans to train on")
    parser.add_argument("--steps", type=int, default=150, help="number of steps, a multiple of 50")
    parser.add_argument("--adamw-rates", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    if args.steps < 50 or args.steps % 50:
        parser.error("--steps must be a multiple of 50: shares are measured then")
    device = best_device()
    model = open_model(ModelSource(location=str(args.state / "start")))
    looked = read_average(args.state / "round_01" / FIRST)
    encoder: Any = model.modules.place("text_encoder", torch.device(device), torch.float32)

    def no_latents(pixels_bchw: Tensor) -> Tensor:
        return torch.zeros(len(pixels_bchw), 4, 1, 1)  # only colours and texts are used

    files = sorted((args.state / "parts_0").glob("plans_*.npz"))[: args.files]
    start = Path(model.info.source.location)
    bank = fill_bank(files, start, no_latents, lambda ids_mk: encoder(ids_mk).last_hidden_state, device)
    muon = how_to_ground(args.steps)
    ways = {"muon": muon}
    ways |= {f"adamw {rate:g}": replace(muon, muon=False, learning_rate=rate) for rate in args.adamw_rates}
    shares: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for label, how in ways.items():
        lines: list[str] = []
        model.modules.get("denoiser").load_state_dict(looked)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            job = Job(Path(folder) / "state.safetensors", lines.append, device)
            ground(model.modules.get("denoiser"), bank, Way(32), how, job)
        seconds[label] = (time.perf_counter() - began) / how.steps
        shares[label] = [float(line.split("plans ")[1]) for line in lines]
        percents = "  ".join(f"{100 * share:5.1f} %" for share in shares[label])
        print(f"{label:12} {percents}  each 50 steps of 32 plans; {seconds[label]:.2f} s a step", flush=True)
    best = max(numbers[-1] for label, numbers in shares.items() if label != "muon")
    ratio = shares["muon"][-1] / max(best, 1e-3)
    print(f"after {args.steps} steps muon has removed {ratio:.1f} times as much as the better adamw")
    if args.json:
        record = {"machine": platform.processor(), "shares": shares, "seconds_a_step": seconds, "ratio": ratio}
        write_record(args.json, record)


if __name__ == "__main__":
    main()
