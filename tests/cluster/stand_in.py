"""A training of a second without torch: saves checkpoints as `loraloom train` does, resumes, and fails as it is asked to.

The final adapter is a pure function of the number of steps, so that a disturbed run can be compared with an undisturbed
one. Each rank writes which steps it did into `done-<rank>.txt`.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from loraloom.utils.heartbeat import heartbeat

stopping: list[int] = []
signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))


def save(run: Path, step: int, value: str) -> None:
    folder = run / "checkpoints" / f"step_{step:07d}"
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    (draft / "state.json").write_text(json.dumps({"step": step, "value": value}))
    sums = {"state.json": hashlib.sha256((draft / "state.json").read_bytes()).hexdigest()}
    (draft / "manifest.json").write_text(json.dumps({"sha256": sums}))
    draft.replace(folder)


def resume(run: Path) -> tuple[int, str]:
    found = sorted((run / "checkpoints").glob("step_[0-9]*"))
    if not found:
        return 0, ""
    state = json.loads((found[-1] / "state.json").read_text())
    return state["step"], state["value"]


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--config", "--dataset", "--out"):
        parser.add_argument(flag, type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--gate", type=Path)  # after step 3 all ranks wait until this file is there
    parser.add_argument("--die", default="")  # rank:step:how, at the first attempt that reaches it
    parser.add_argument("--apart", type=int, default=-1)  # after step 3 this rank holds other weights
    given = parser.parse_args()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    given.out.mkdir(parents=True, exist_ok=True)
    step, value = resume(given.out)
    print(f"rank {rank} of {world} from step {step}", flush=True)
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', 'all')}", flush=True)
    while step < given.steps:
        while given.gate and step == 3 and not given.gate.exists() and not stopping:
            time.sleep(0.05)
        if stopping:
            print("stopped", flush=True)
            return
        if given.die.endswith("always"):
            fail(given.die, given.out, rank, step)
        heartbeat().step(step)
        heartbeat().enter()
        step, value = step + 1, hashlib.sha256(f"{value}{step}".encode()).hexdigest()
        with (given.out / f"done-{rank}.txt").open("a") as file:
            file.write(f"{step}\n")
        if rank == 0:
            with (given.out / "events.jsonl").open("a") as file:
                file.write(json.dumps({"kind": "train", "step": step, "loss": 0.5, "images_per_second": 8.0}) + "\n")
            save(given.out, step, value)
        heartbeat().weights(step, f"other-{value}" if rank == given.apart and step > 3 else value)
        fail(given.die, given.out, rank, step)
    if rank == 0:
        (given.out / "adapter.safetensors").write_text(value)
    print("done", flush=True)


def fail(wish: str, run: Path, rank: int, step: int) -> None:
    if not wish:
        return
    who, when, how = wish.split(":")
    marker = run / f"died-{rank}"
    if int(who) != rank or step < int(when) or (how != "always" and marker.exists()):
        return
    marker.touch()
    if how == "mistake":
        print("error: the dataset is not there: got 'x'\n  name another one", flush=True)
        sys.exit(2)
    if how == "hang":
        time.sleep(600)
    if how in {"kill", "always"}:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    raise RuntimeError("the loss is a banana")


main()
