"""Run `loraloom train` as ranks, with a fault injected at one of them."""

import os
import subprocess
import sys
from pathlib import Path

FAULTY = Path(__file__).with_name("faulty")
"""Holds a `sitecustomize.py`, which Python imports at its start: faults are patches of a real rank, not doubles of it."""


def train_on_ranks(
    config: Path, ranks: int, *, fault: str = "", timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """`loraloom train --num-processes RANKS`; `fault` is `KIND:RANK:STEP,…`, see `faulty/sitecustomize.py`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "30000"}
    if fault:
        path = [str(FAULTY), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        environment |= {"PYTHONPATH": os.pathsep.join(path), "TEST_FAULT": fault}
    return subprocess.run(
        [sys.executable, "-m", "loraloom", "train", "--config", str(config), "--cpu", "--num-processes", str(ranks)],
        cwd=config.parent, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
