"""What each rank does between two log lines: its own speed, and its GPU's figures.

In: a rank's busy seconds and images. Out: one record per rank on all ranks, by one small collective per log line.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loraloom.train.distributed import Runtime
from loraloom.utils.gpu_figures import GpuFigures


class Stopwatch:
    """Seconds of work on a device, without waiting for it: events on CUDA, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks = [self._mark()]

    def stop(self) -> None:
        """Here the work ends."""
        self._marks.append(self._mark())

    def seconds(self) -> float:
        """The time of the work; on CUDA once the device has done it."""
        first, last = self._marks[0], self._marks[-1]
        if isinstance(first, torch.cuda.Event) and isinstance(last, torch.cuda.Event):
            last.synchronize()
            return first.elapsed_time(last) / 1000
        assert isinstance(first, float)
        assert isinstance(last, float)
        return last - first

    def _mark(self) -> "float | torch.cuda.Event":
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFigures:
    """A rank between two log lines.

    Attributes:
        images_per_second: Its images by the time that it computed, without waiting for others.
        busy: Share of the time in which it computed, 0 to 1.
        gpu: Figures of its GPU.
    """

    images_per_second: float
    busy: float
    gpu: dict[str, float]

    def numbers(self) -> dict[str, float]:
        """All of them, by name."""
        return {"images_per_second": self.images_per_second, "busy": self.busy, **self.gpu}


def gather_figures(
    runtime: Runtime, gpu: GpuFigures, *, busy_seconds: float, images: int, seconds: float
) -> list[RankFigures]:
    """The figures of all ranks, in order."""
    mine = {
        "images_per_second": images / max(busy_seconds, 1e-9),
        "busy": min(1.0, busy_seconds / max(seconds, 1e-9)),
        "gpu": gpu.read(),
    }
    return [RankFigures(**json.loads(text)) for text in runtime.gather_texts([json.dumps(mine)])]


def slowest(figures: Sequence[RankFigures]) -> int:
    """The rank that computed longest for its images: the one that the others wait for."""
    return max(range(len(figures)), key=lambda rank: figures[rank].busy)
