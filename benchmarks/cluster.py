"""Many machines, measured: deployment, recovery from faults, messages between hosts, and a model of 2 to 64 nodes.

    python -m benchmarks.cluster deploy      seconds to ship the package to 1, 2 and 3 hosts
    python -m benchmarks.cluster recovery    seconds to see each fault and to train again
    python -m benchmarks.cluster training    the same with the real training of a tiny model
    python -m benchmarks.cluster efficiency  images/s of `builtin:mini` on two hosts of one thread against one
    python -m benchmarks.cluster messages    seconds of an all-reduce at LoRA sizes, full speed, 1 Gbit/s, 100 Mbit/s, 50 ms
    python -m benchmarks.cluster simulate    a model of larger clusters from given step and message times

All but `simulate` need root, sshd and asyncssh: hosts are network namespaces of one machine (tests/support/netns_lab.py).
Their processes share the machine's cores, so times of computing say nothing, but where each has a core of its own
(`efficiency`, on an idle machine); times of detection and of messages do.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
EXPECTED = {(4, 1): 350, (8, 2): 650, (16, 4): 1200}
"""Speed in percent of one GPU that people expect of (GPUs, nodes)."""


def simulate(step_s: float, megabytes: float, mbit: float, latency_s: float) -> None:
    """Print speeds of a ring all-reduce without overlap with computing.

    Model: a step of n machines takes step_s + 2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency. GPUs of one machine
    count as one link: they share its network card, and their own exchange is taken as free. Every GPU has the same work.
    """
    print(f"one step: {step_s:g} s, message {megabytes:g} MB, {mbit:g} Mbit/s, latency {latency_s * 1000:g} ms")
    print("| nodes | GPUs of each | speed | share of the network | expected |")
    print("|---|---|---|---|---|")
    for nodes, gpus in [(1, 4), (2, 1), (2, 4), (4, 1), (4, 4), (8, 1), (16, 1), (32, 1), (64, 1)]:
        sent = 2 * (nodes - 1) / nodes * megabytes * 8 / mbit + 2 * (nodes - 1) * latency_s if nodes > 1 else 0.0
        speed = 100 * nodes * gpus * step_s / (step_s + sent)
        usual = EXPECTED.get((nodes * gpus, nodes))
        expected = f"{usual} %" if usual else "-"
        print(f"| {nodes} | {gpus} | {speed:.0f} % | {100 * sent / (step_s + sent):.1f} % | {expected} |")


def deploy() -> None:
    """Print the seconds of a first and of a second deployment."""
    from tests.support.netns_lab import laboratory

    print("| hosts | first | again |\n|---|---|---|")
    for hosts in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder, laboratory(Path(folder), hosts + 1) as lab:
            seconds = [_driver(lab, hosts + 1, preflight=True).seconds("deployed") for _ in range(2)]
            print(f"| {hosts} | {seconds[0]:.1f} s | {seconds[1]:.1f} s |", flush=True)


def recovery() -> None:
    """Print how long each fault takes to be seen, and until a new attempt starts."""
    from tests.support.netns_lab import Laboratory, laboratory

    def kill_rank(lab: Laboratory) -> None:
        ranks = [pid for pid in lab.processes_of(2) if b"stand_in" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ranks[0], signal.SIGKILL)

    def kill_agent(lab: Laboratory) -> None:
        os.kill(lab.agents(2)[0], signal.SIGKILL)

    faults: dict[str, Callable[[Laboratory], None]] = {
        "kill -9 of a rank": kill_rank,
        "kill -9 of an agent": kill_agent,
        "link cut for good, --suspect 10, --min-nodes 1": lambda lab: lab.cut(2),
    }
    print("| fault | seen after | next attempt after |\n|---|---|---|")
    for name, fault in faults.items():
        with tempfile.TemporaryDirectory() as folder, laboratory(Path(folder), 2) as lab:
            story = _driver(lab, 2, min_nodes=1, suspect_s=10.0)
            story.wait_for_gate()
            began = time.time()
            fault(lab)
            story.wait(lambda story=story: sum(row["word"] == "start" for row in story.events) > 1, "another attempt")
            seen = next(row["time"] for row in story.events if row["word"] == "outcome") - began
            again = [row["time"] for row in story.events if row["word"] == "start"][1] - began
            print(f"| {name} | {seen:.1f} s | {again:.1f} s |", flush=True)


def training(out: Path | None) -> None:
    """Print the seconds from a fault of two hosts that train to the restart and the next step; write them to `out`."""
    from loraloom.config.prepare import PrepareConfig
    from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
    from loraloom.prepare.run import prepare
    from tests.cluster.test_netns_training import Training, copy_package, launched
    from tests.support.images import drawn, save

    def kill_rank(run: Training, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def power_off(run: Training, pid: int) -> None:
        run.lab.power_off(2)

    def cut(run: Training, pid: int) -> None:
        run.lab.cut(2)
        time.sleep(10)
        run.lab.join(2)

    faults: dict[str, tuple[Callable[[Training, int], None], list[str]]] = {
        "kill -9 of a rank": (kill_rank, []),
        "a host is gone, --suspect 10, --min-nodes 1": (power_off, ["--suspect", "10", "--min-nodes", "1"]),
        "link cut for 10 s, --suspect 30": (cut, []),
    }
    found: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(4):
            save(drawn(number, 64, 64), folder / "raw" / f"{number}.png", f"image {number}")
        settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
        prepare(folder / "raw", folder / "images", settings, console=lambda text: None)
        (folder / "project").mkdir()
        project, model = copy_package(folder / "project"), build_tiny(folder / "model", seed=0)
        print("| fault | restart is said after | next attempt after | next step done after |\n|---|---|---|---|")
        for number, (name, (fault, flags)) in enumerate(faults.items()):
            (folder / str(number)).mkdir()
            kind = "wait" if fault is cut else "hold"
            with launched(folder / str(number), project, model, folder / "images", f"{kind}:1:4", flags=flags) as run:
                pid = run.wait_until_held()
                began = time.monotonic()
                run.gate.touch()
                fault(run, pid)
                found[name] = _times(run, began, restarts=fault is not cut)
                run.finish()
            cells = ["none" if value is None else f"{value:.1f} s" for value in found[name].values()]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if out:
        what = (
            "seconds after a fault of one of two network namespaces of one machine that train a tiny model on its CPU"
        )
        _write(out, what, {"faults": found})


def efficiency(steps: int, rounds: int, out: Path | None) -> None:
    """Print images/s of two hosts against one, batch 2 and one thread each, in turn; write them to `out`."""
    from loraloom.config.prepare import PrepareConfig
    from loraloom.prepare.run import prepare
    from tests.cluster.test_netns_training import ENVIRONMENT, launched
    from tests.support.images import drawn, save

    found: dict[str, list[float]] = {"one host": [], "two hosts": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(8):
            save(drawn(number, 256, 256), folder / "raw" / f"{number}.png", f"image {number}")
        settings = PrepareConfig(size=256, validation_share=0, num_workers=1)
        prepare(folder / "raw", folder / "images", settings, console=lambda text: None)
        groups: Any = {
            "data": {"batch_size": 2},
            "train": {"max_steps": steps, "log_every": 5},
            "checkpoints": {"every": steps},
            "samples": {"enabled": False},
        }
        for number in range(rounds):
            (own := folder / str(number)).mkdir()
            with launched(own, ROOT, Path("builtin:mini"), folder / "images", **groups) as run:
                run.finish()
                found["two hosts"].append(_rate(run.run))
            alone = own / "alone"
            line = ["train", "--config", str(own / "run.yaml"), "--out", str(alone)]
            subprocess.run(
                [sys.executable, "-m", "loraloom", *line],
                env={**os.environ, **ENVIRONMENT},
                check=True,
                capture_output=True,
            )
            found["one host"].append(_rate(alone))
            print(f"images/s: one host {found['one host'][-1]:.2f}, two hosts {found['two hosts'][-1]:.2f}", flush=True)
    share = median(two / one / 2 for one, two in zip(*found.values(), strict=True))
    print(f"efficiency: {share:.0%} (median of {rounds})")
    if out:
        what = f"images/s of builtin:mini over {steps} steps of batch 2 a host, a core for each host, two network namespaces"
        _write(out, what, {"images_per_second": found, "efficiency": round(share, 3)})


def _rate(run: Path) -> float:
    """Median of the images/s of a run's steps; the first value is left out."""
    rows = map(json.loads, (run / "events.jsonl").read_text("utf-8").splitlines())
    rates = [row["images_per_second"] for row in rows if row["kind"] == "train"]
    return median(rates[1:])


def _times(run: Any, began: float, *, restarts: bool) -> dict[str, float | None]:
    """Seconds until the restart is said, an attempt starts, and the next step is done; None for what does not happen."""

    def after(so: Callable[[], bool], what: str) -> float:
        run.wait(so, what)
        return round(time.monotonic() - began, 1)

    if not restarts:
        return {"said": None, "attempt": None, "step": after(lambda: "step 5/6" in run.text, "a step")}
    return {
        "said": after(lambda: "the gang is restarted" in run.text, "the restart is said"),
        "attempt": after(lambda: len(run.attempts()) > 1, "another attempt"),
        "step": after(lambda: "[master 0] step " in run.text.rpartition("\nattempt ")[2], "a step"),
    }


def _write(out: Path, what: str, more: dict[str, Any]) -> None:
    record: dict[str, Any] = {
        "device": f"{os.cpu_count()} cores of {_cpu_name()}, no GPU",
        "date": datetime.now(UTC).date().isoformat(),
        "load": f"{os.getloadavg()[0]:.1f} at the end",
        "what": what,
        **more,
    }
    out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


class _Driver:
    """A story of the tests, and when things happened in it."""

    def __init__(self, story: Any) -> None:
        self.story = story

    def __getattr__(self, name: str) -> Any:
        return getattr(self.story, name)

    def seconds(self, word: str) -> float:
        self.story.process.wait(600)
        return [row for row in self.story.events if row["word"] == word][-1]["seconds"]


def _driver(lab: Any, hosts: int, **options: Any) -> _Driver:
    from tests.cluster.test_netns import Story

    return _Driver(Story(lab, ROOT, hosts=hosts, **options))


NETWORKS: tuple[tuple[str, int | None, float], ...] = (
    ("not limited", None, 0.0),
    ("1 Gbit/s", 1000, 0.0),
    ("100 Mbit/s", 100, 0.0),
    ("not limited, 50 ms", None, 50.0),
    ("1 Gbit/s, 50 ms", 1000, 50.0),
    ("100 Mbit/s, 50 ms", 100, 50.0),
)
"""Name, Mbit/s that each host sends at most, milliseconds that a round trip takes longer."""


def messages(sizes: list[float], out: Path | None) -> None:
    """Print seconds of an all-reduce between two hosts; write them to `out` too."""
    from tests.support.netns_lab import laboratory

    print("| network | " + " | ".join(f"{size:g} MB" for size in sizes) + " |\n|---|" + "---|" * len(sizes))
    found: dict[str, list[float]] = {}
    for name, mbit, ms in NETWORKS:
        with tempfile.TemporaryDirectory() as folder, laboratory(Path(folder), 2) as lab:
            if mbit:
                lab.slow(1, mbit=mbit)
                lab.slow(2, mbit=mbit)
            if ms:
                lab.delay(2, ms=ms)
            line = [sys.executable, "-m", "benchmarks.cluster", "rank", *map(str, sizes)]
            common = {"WORLD_SIZE": "2", "MASTER_ADDR": lab.address(1), "MASTER_PORT": "29500", "PYTHONPATH": str(ROOT)}
            common |= {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
            logs = [Path(folder) / f"rank-{rank}.log" for rank in (0, 1)]
            ran = [lab.start(rank + 1, line, logs[rank], RANK=str(rank), **common) for rank in (0, 1)]
            for process in ran:
                process.wait(600)
            rows = [text for text in logs[0].read_text().splitlines() if text.startswith("[")]
            if not rows:
                raise SystemExit(logs[0].read_text())
            found[name] = json.loads(rows[-1])
            print(f"| {name} | " + " | ".join(f"{value:.3f} s" for value in found[name]) + " |", flush=True)
    if out:
        what = "median seconds of five gloo all-reduces of float32 between two network namespaces of one machine"
        _write(out, what, {"megabytes": sizes, "networks": found})


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "an unknown CPU"


def rank(sizes: list[float]) -> None:
    """One of the two processes of `messages`: median of five all-reduces of each size."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    medians: list[float] = []
    for size in sizes:
        tensor, times = torch.zeros(int(size * 250_000)), list[float]()
        for _ in range(6):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        medians.append(sorted(times[1:])[2])
    print(json.dumps(medians), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("deploy", "recovery", "training"):
        verbs.add_parser(name)
    for name in ("messages", "rank"):
        verbs.add_parser(name).add_argument("sizes", type=float, nargs="*", default=[1.5, 6.0, 25.0])
    speed = verbs.add_parser("efficiency")
    speed.add_argument("--steps", type=int, default=40)
    speed.add_argument("--rounds", type=int, default=3)
    for name in ("training", "efficiency", "messages"):
        verbs.choices[name].add_argument("--out", type=Path, help="also write a JSON file")
    model = verbs.add_parser("simulate")
    model.add_argument("--step-s", type=float, default=0.5)
    model.add_argument("--megabytes", type=float, default=6.0)
    model.add_argument("--mbit", type=float, default=940.0)
    model.add_argument("--latency-s", type=float, default=0.0005)
    given = parser.parse_args()
    if given.verb == "simulate":
        simulate(given.step_s, given.megabytes, given.mbit, given.latency_s)
    elif given.verb == "messages":
        messages(given.sizes, given.out)
    elif given.verb == "efficiency":
        efficiency(given.steps, given.rounds, given.out)
    elif given.verb == "training":
        training(given.out)
    elif given.verb == "rank":
        rank(given.sizes)
    else:
        {"deploy": deploy, "recovery": recovery}[given.verb]()


if __name__ == "__main__":
    main()
