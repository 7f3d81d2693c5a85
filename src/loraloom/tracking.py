"""One sink for a run's numbers and images: JSON lines always, TensorBoard and Weights & Biases on demand.

In: `Event`s and sample images. Out: `events.jsonl` (one event a line, steps ascending also after a resume), and the
trackers that were asked for.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from loraloom.config.run import TrackingConfig
from loraloom.utils.atomic_files import write_bytes, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.reporting import log
from loraloom.utils.untrusted import MAX_TABLE_BYTES, check_regular_file, is_there, parse_json


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's record: a kind, a step, and plain values."""

    kind: str
    step: int
    values: Mapping[str, Any]


class Sink(Protocol):
    """Somewhere that events go."""

    def event(self, event: Event) -> None:
        """Take an event."""
        ...

    def image(self, name: str, path: Path, step: int, caption: str) -> None:
        """Take a finished image file."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class JsonLines:
    """`events.jsonl`: every line `{"time", "kind", "step", …}`. Lines later than a resumed step are taken back."""

    def __init__(self, path: Path, resume_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_there(path):
            check_regular_file(path, "the run's events", max_bytes=MAX_TABLE_BYTES)
            kept = [line for line in path.read_bytes().split(b"\n") if _step_of(line) <= resume_step]
            write_bytes(path, b"".join(line + b"\n" for line in kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def event(self, event: Event) -> None:
        """Append a line and hand it to the system at once, so that a killed run keeps it."""
        values = {key: _plain(value) for key, value in event.values.items()}
        if not self._path.exists():  # removed meanwhile: what is written to the open file would be gone
            self._file.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        row = {"time": round(time.time(), 3), "kind": event.kind, "step": event.step, **values}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def image(self, name: str, path: Path, step: int, caption: str) -> None:
        """Append where the image is."""
        self.event(Event("image", step, {"name": name, "file": path.name, "caption": caption}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard files below `tensorboard/`."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tracking.tensorboard needs tensorboard", fix="install it: uv sync --extra track") from None
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def event(self, event: Event) -> None:
        """Numbers become scalars `kind/name`."""
        for key, value in _numbers(event).items():
            self._writer.add_scalar(f"{event.kind}/{key}", value, event.step)

    def image(self, name: str, path: Path, step: int, caption: str) -> None:
        """The image with its caption."""
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.add_text(f"{name}/prompt", caption, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run, offline when `WANDB_MODE=offline`; one W&B run for all resumes."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("tracking.wandb needs wandb", fix="install it: uv sync --extra track") from None
        self._wandb: Any = wandb
        id_file = folder / "wandb_id.txt"
        if not id_file.is_file():
            write_text(id_file, uuid.uuid4().hex[:8])
        self._run: Any = wandb.init(
            project=project,
            dir=str(folder),
            id=id_file.read_text(encoding="utf-8"),
            resume="allow",
            config=dict(config),
        )
        # W&B drops what is older than its own counter; a resumed run goes back a little and keeps its own.
        self._run.define_metric("*", step_metric="step")

    def event(self, event: Event) -> None:
        """Numbers become `kind/name`."""
        numbers = {f"{event.kind}/{key}": value for key, value in _numbers(event).items()}
        if numbers:
            self._run.log({**numbers, "step": event.step})

    def image(self, name: str, path: Path, step: int, caption: str) -> None:
        """The image with its caption."""
        self._run.log({name: self._wandb.Image(str(path), caption=caption), "step": step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Tracker:
    """All sinks of a run. A sink that fails is reported once and left out; numbers never end a training."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Record an event."""
        self._each(lambda sink: sink.event(Event(kind, step, values)))

    def image(self, name: str, path: Path, step: int, caption: str) -> None:
        """Record an image."""
        self._each(lambda sink: sink.image(name, path, step, caption))

    def close(self) -> None:
        """Close all sinks."""
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, act: Any) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:  # third-party trackers fail in any way, a full disk in another
                self._sinks.remove(sink)
                log.warning(f"{type(sink).__name__} failed and is left out from here on: {error}")


def open_tracker(folder: Path, config: TrackingConfig, settings: Mapping[str, Any], resume_step: int) -> Tracker:
    """The tracker of a run folder.

    Raises:
        UserError: A tracker that was asked for is not installed.
    """
    sinks: list[Sink] = [JsonLines(folder / "events.jsonl", resume_step)]
    if config.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", resume_step))
    if config.wandb:
        sinks.append(WeightsAndBiases(folder, config.project, settings))
    return Tracker(sinks)


def silent_tracker() -> Tracker:
    """A tracker for processes that do not write."""
    return Tracker([])


def _numbers(event: Event) -> dict[str, float]:
    return {key: float(value) for key, value in event.values.items() if isinstance(value, (int, float))}


def _plain(value: Any) -> Any:
    """JSON has no NaN: it is written as a word."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _step_of(line: bytes) -> int:
    """The step of a line; beyond every step where it is none, such as the half line of a killed process."""
    try:
        step = parse_json(line.decode("utf-8"), "the run's events", constants=True)["step"]
    except (UserError, ValueError, KeyError, TypeError):
        return 1 << 62
    return step if isinstance(step, int) else 1 << 62
