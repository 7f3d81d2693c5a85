"""Measure generation beside other work on the same cores: OpenMP's default spinning wait against loraloom's short one.

OpenMP threads that wait for each other spin. On a core that another program also uses, a thread spins while the thread
that it waits for does not run. `loraloom` sets `GOMP_SPINCOUNT=30000` if the user set nothing (`cli.main`). Both sides
generate the same images with `builtin:mini`, alternately, in separate processes, on an idle machine and beside one busy
process per core; medians of seconds per image and of their ratios are printed.

    python -m benchmarks.busy_cores --rounds 5
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.recording import machine, write_record

GENERATE = """
import time
from loraloom.config.generate import GenerateConfig
from loraloom.protocols.model import ModelSource
from loraloom.generate.session import open_session
session = open_session(GenerateConfig(steps=8), source=ModelSource(location="builtin:mini"), say=lambda text: None)
requests = session.requests(["a red house beside a tree"])
list(session.generate(requests))
began = time.perf_counter()
list(session.generate(requests * 2))
print((time.perf_counter() - began) / 2)
"""
SIDES = {"OpenMP's own": None, "short spin": "30000"}


def image_s(spin: str | None) -> float:
    """Seconds per image in a new process."""
    environment = {key: value for key, value in os.environ.items() if key not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    ended = subprocess.run(
        [sys.executable, "-c", GENERATE], env=environment, capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


@contextmanager
def other_work(processes: int) -> Iterator[None]:
    """Processes that only compute while the block runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    record: dict[str, object] = {"machine": machine(), "rounds": arguments.rounds}
    print(f"{machine()}; 8 steps an image, {arguments.rounds} rounds")
    print(f"{'beside':16} {'wait':14} {'median s an image':>18}")
    for name, processes in (("nothing", 0), (f"{cores} busy processes", cores)):
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        with other_work(processes):
            for _ in range(arguments.rounds):
                for side, spin in SIDES.items():
                    seconds[side].append(image_s(spin))
        for side, values in seconds.items():
            print(f"{name:16} {side:14} {median(values):>18.2f}")
        own, short = seconds.values()
        ratio = median(one / other for one, other in zip(own, short, strict=True))
        print(f"{name:16} {'ratio':14} {ratio:>17.2f}x")
        record[name] = {**seconds, "ratio": ratio}
    if arguments.json:
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
