"""Inject one fault into one rank: `TEST_FAULT=KIND:RANK:STEP`, with the step as finished steps.

`die` and `drift` are of a train step; `sample-raise`, `sample-memory`, `sample-slow`, `sample-stuck` and `sample-die` are of
the samples after that step.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from types import ModuleType
from typing import Any

KIND, RANK, STEP = (os.environ.get("TEST_FAULT") or "none:-1:-1").split(":")


def in_step(module: ModuleType) -> None:
    plain = module.train_step

    def train_step(train_state: Any, step: int, **options: Any) -> Any:
        if KIND == "die" and step == int(STEP):
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(train_state, step, **options)
        if KIND == "drift" and step + 1 == int(STEP):
            next(iter(train_state.adapter.parameters.values())).data.view(-1)[0] += 1e-6
        return result

    module.train_step = train_step


def in_samples(module: ModuleType) -> None:
    plain_sample, plain_generate = module.Sampler.sample, module.generate
    now = [-1]

    def sample(self: Any, step: int, *arguments: Any) -> None:
        now[0] = step
        plain_sample(self, step, *arguments)

    def generate(*arguments: Any, stop: Any, **options: Any) -> Any:
        if now[0] != int(STEP):
            yield from plain_generate(*arguments, stop=stop, **options)
            return
        if KIND == "sample-raise":
            raise RuntimeError("a fault of the test")
        if KIND == "sample-memory":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if KIND == "sample-die":
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "sample-stuck":
            time.sleep(600)

        def slow() -> bool:
            time.sleep(0.2)
            return stop()

        yield from plain_generate(*arguments, stop=slow if KIND == "sample-slow" else stop, **options)

    module.Sampler.sample, module.generate = sample, generate


PATCHES = {"loraloom.train.loop": in_step, "loraloom.train.sampling": in_samples}


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


if os.environ.get("RANK") == RANK:
    sys.meta_path.insert(0, Patching())
