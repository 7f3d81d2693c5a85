"""Inject faults into ranks: `TEST_FAULT=KIND:RANK:STEP,…`, with the step as finished steps.

`die`, `drift`, `hold` and `wait` are of a train step; where the file `$TEST_GATE` is missing, `hold` stops there for ever and
`wait` until it is made; both write their process id to `$TEST_GATE.held`. `silent` leaves the exchange of gradients out, and
`separate` makes the rank a group of its own; their step is not looked at. Of the samples after that step are `sample-raise`,
`sample-memory`, `sample-tight` (no memory at the first try), `sample-slow` (within the deadline), `sample-late`,
`sample-stuck`, `sample-pause` (five seconds), `sample-watch` (nothing) and `sample-die`. A faulty rank refuses collectives in
its samples.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FAULTS = [fault.split(":") for fault in os.environ.get("TEST_FAULT", "").split(",") if fault]
MINE = {int(step): kind for kind, rank, step in FAULTS if rank == os.environ.get("RANK")}


def in_step(module: ModuleType) -> None:
    plain = module.train_step

    def train_step(train_state: Any, step: int, **options: Any) -> Any:
        if MINE.get(step) == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if MINE.get(step) in {"hold", "wait"} and not (gate := Path(os.environ["TEST_GATE"])).exists():
            gate.with_name(f"{gate.name}.held").write_text(str(os.getpid()))
            while MINE[step] == "hold" or not gate.exists():  # a rank that is held is killed here
                time.sleep(0.05)
        result = plain(train_state, step, **options)
        if MINE.get(step + 1) == "drift":
            next(iter(train_state.adapter.parameters.values())).data.view(-1)[0] += 1e-6
        return result

    module.train_step = train_step


def in_exchange(module: ModuleType) -> None:
    if "silent" in MINE.values():
        module.Runtime.sum_gradients = lambda runtime, parameters, numbers: numbers


def in_samples(module: ModuleType) -> None:
    plain_sample, plain_generate = module.Sampler.sample, module.generate
    now = [-1]
    tight: list[bool] = []

    def sample(self: Any, step: int, *arguments: Any) -> None:
        now[0] = step
        plain_sample(self, step, *arguments)

    def generate(*arguments: Any, stop: Any, **options: Any) -> Any:
        kind = MINE.get(now[0])
        if kind == "sample-raise":
            raise RuntimeError("a fault of the test")
        if kind == "sample-memory":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if kind == "sample-tight" and not tight:
            import torch

            tight.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if kind == "sample-die":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "sample-stuck":
            time.sleep(600)
        if kind == "sample-pause":
            time.sleep(5)

        def slow() -> bool:
            time.sleep(0.5)
            return stop()

        def late() -> bool:  # a clock far ahead, so that no test has to wait
            module.time = SimpleNamespace(monotonic=lambda: time.monotonic() + 1e6, perf_counter=time.perf_counter)
            try:
                return stop()
            finally:
                module.time = time

        stops = {"sample-slow": slow, "sample-late": late}
        yield from plain_generate(*arguments, stop=stops.get(str(kind), stop), **options)

    plain_share = module.Sampler._sample_share

    def sample_share(self: Any, *arguments: Any) -> str:
        """A collective in here raises: the fence then reports it as this rank's fault."""
        import loraloom.train.distributed as distributed

        def refuse() -> Any:
            raise AssertionError("a collective in the samples")

        plain_wait, distributed.needs_all_ranks = distributed.needs_all_ranks, refuse
        try:
            return plain_share(self, *arguments)
        finally:
            distributed.needs_all_ranks = plain_wait

    module.Sampler._sample_share = sample_share
    plain_limit = module.exit_if_late

    def exit_if_late(seconds: float) -> Any:
        return plain_limit(1.0 if MINE.get(now[0]) == "sample-stuck" else seconds)

    module.Sampler.sample, module.generate, module.exit_if_late = sample, generate, exit_if_late


PATCHES = {
    "loraloom.train.loop": in_step,
    "loraloom.train.distributed": in_exchange,
    "loraloom.train.sampling": in_samples,
}


class Patching(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                PATCHES[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "separate" in MINE.values():
    port = int(os.environ["MASTER_PORT"]) + 50 + int(os.environ["RANK"])  # one machine stands for two here
    os.environ |= {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
if MINE:
    sys.meta_path.insert(0, Patching())
