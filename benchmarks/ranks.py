"""Measure several ranks on one machine: overhead, the all-reduce, samples, and the detection of a dead rank.

Out, on gloo and the CPU:

1. images per second of two ranks (batch 2, one thread each) by those of one rank (batch 4, two threads): equal work;
2. seconds of the flat all-reduce of a step against DistributedDataParallel's bucketed one, for a LoRA of 4 MB;
3. seconds of one round of samples over 1, 2 and 4 ranks, with as many images in all;
4. seconds from a rank's SIGKILL to the end of all ranks.

    python -m benchmarks.ranks
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.training_speed import make_images
from loraloom.utils.ranks import run_ranks

NUM_PARAMETERS, PARAMETER_SIZE = 128, 8192
"""LoRA matrices of 4 MB in all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", choices=["overhead", "reduce", "samples", "dead"])
    parser.add_argument("--worker", choices=["reduce", "dead"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        {"reduce": reduce_worker, "dead": dead_worker}[args.worker](args.file)
        return
    parts = [args.only] if args.only else ["overhead", "reduce", "samples", "dead"]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"overhead", "samples"} & {*parts}:
            prepare_all(folder)
        if "overhead" in parts:
            overhead(folder, args.steps)
        if "reduce" in parts:
            reduce(folder)
        if "samples" in parts:
            samples(folder)
        if "dead" in parts:
            dead(folder)


def prepare_all(folder: Path) -> None:
    """A model, a dataset."""
    from loraloom.config.prepare import PrepareConfig
    from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
    from loraloom.prepare.run import prepare

    build_tiny(folder / "model", seed=0)
    make_images(folder / "images", 16, 128)
    settings = PrepareConfig(size=128, validation_share=0)
    prepare(folder / "images", folder / "dataset", settings, console=lambda text: None)


def train(folder: Path, name: str, ranks: int, threads: int, *settings: str) -> list[dict[str, object]]:
    """The events of a run."""
    base = [f"model.source={folder / 'model'}", f"data.dataset={folder / 'dataset'}", f"train.output={folder / name}"]
    off = ["export.verify=false", "checkpoints.every=0", "train.log_every=1"]
    options = [part for setting in (*base, *off, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "loraloom", "train", "--cpu", *options, "--num-processes", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (folder / name / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def overhead(folder: Path, steps: int) -> None:
    """Two ranks against one at equal work."""
    speeds: dict[int, float] = {}
    shares: list[float] = []
    for ranks, batch, threads in ((1, 4, 2), (2, 2, 1)):
        settings = (f"train.max_steps={steps}", f"data.batch_size={batch}", "samples.enabled=false")
        rows = train(folder, f"overhead{ranks}", ranks, threads, *settings)
        speeds[ranks] = statistics.median(float(str(r["images_per_second"])) for r in rows if r["kind"] == "train")
        shares += [1 - float(str(row["busy"])) for row in rows if str(row["kind"]).startswith("rank_")]
    print(f"images/s: one rank {speeds[1]:.1f}, two ranks {speeds[2]:.1f}: {speeds[2] / speeds[1]:.2f} times")
    print(
        f"median share of a step outside a rank's own work (all-reduce, waiting, update): {statistics.median(shares):.1%}"
    )


def reduce(folder: Path) -> None:
    """The flat all-reduce against DistributedDataParallel."""
    file = folder / "reduce.json"
    run_ranks([sys.executable, "-m", "benchmarks.ranks", "--worker", "reduce", "--file", str(file)], 2, None)
    seconds = json.loads(file.read_text(encoding="utf-8"))
    print(
        f"all-reduce of 4 MB: flat {seconds['flat'] * 1e3:.1f} ms, DistributedDataParallel {seconds['ddp'] * 1e3:.1f} ms"
    )


def reduce_worker(file: Path) -> None:
    """Median seconds of both, on a rank."""
    import torch
    from torch import Tensor, distributed, nn

    distributed.init_process_group("gloo")
    module = nn.ParameterList([nn.Parameter(torch.randn(PARAMETER_SIZE)) for _ in range(NUM_PARAMETERS)])

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = module

        def forward(self, factor: Tensor) -> Tensor:
            return torch.stack([(part * factor).sum() for part in self.parts]).sum()

    def backward(model: nn.Module) -> float:
        began = time.perf_counter()
        model(torch.ones(())).backward()
        return time.perf_counter() - began

    wrapped, plain = nn.parallel.DistributedDataParallel(Sum()), Sum()
    times: dict[str, list[float]] = {"flat": [], "ddp": []}
    for _ in range(40):
        module.zero_grad()
        alone = backward(plain)
        began = time.perf_counter()
        flat = torch.cat([part.grad.flatten() for part in module if part.grad is not None])
        distributed.all_reduce(flat)
        times["flat"].append(time.perf_counter() - began)
        module.zero_grad()
        times["ddp"].append(backward(wrapped) - alone)
    if distributed.get_rank() == 0:
        file.write_text(json.dumps({name: statistics.median(found) for name, found in times.items()}), encoding="utf-8")


def samples(folder: Path) -> None:
    """Samples of four prompts over some ranks."""
    for ranks in (1, 2, 4):
        prompts = 'samples.prompts=["a","b","c","d"]'
        rows = train(folder, f"samples{ranks}", ranks, 1, "train.max_steps=1", prompts)
        last = [row for row in rows if row["kind"] == "samples"][-1]
        print(f"4 samples on {ranks} ranks: {last['seconds']} s; each rank: {last['rank_seconds']}")


def dead(folder: Path) -> None:
    """How soon all ranks have ended after one was killed."""
    file = folder / "dead.txt"
    ended = run_ranks([sys.executable, "-m", "benchmarks.ranks", "--worker", "dead", "--file", str(file)], 2, None)
    seconds = time.time() - float(file.read_text(encoding="utf-8"))
    print(f"rank {ended.first} {ended.reason()}: all ranks had ended after {seconds:.2f} s")


def dead_worker(file: Path) -> None:
    """All-reduces until one rank kills itself."""
    import torch
    from torch import distributed

    from loraloom.utils.ranks import LOST

    distributed.init_process_group("gloo")
    for number in range(1000):
        if distributed.get_rank() == 1 and number == 20:
            file.write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.all_reduce(torch.ones(1000))
        except RuntimeError:
            os._exit(LOST)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
