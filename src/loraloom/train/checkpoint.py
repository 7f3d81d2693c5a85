"""Checkpoints that are whole or not there.

In: an adapter, an optimizer, a few numbers. Out: `checkpoints/step_0000100/` with a manifest of sha256 sums, written
beside, fsynced and renamed; or the newest whole one read back. The old one goes only after the new one stands.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from loraloom.errors import UserError
from loraloom.files import remove_directory, remove_leftovers, sha256_file, whole_directory, write_json
from loraloom.lora.files import save_adapter
from loraloom.weights import read_tensors, write_tensors

_NAME = re.compile(r"step_(\d{7,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on as if nothing had happened.

    Attributes:
        step: Finished optimizer steps.
        adapter: Float32 weights by exchange key.
        ema: Average of the weights by exchange key; empty without EMA.
        optimizer: State tensors.
        optimizer_rest: State that is not tensors.
        state: Loss scale, best validation loss, skipped updates, plan fingerprint.
    """

    step: int
    adapter: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    optimizer_rest: Mapping[str, Any]
    state: Mapping[str, Any]


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step stands."""
        return self.folder / f"step_{step:07d}"

    def steps(self) -> list[int]:
        """Steps that have a directory, ascending; whether it is whole is not looked at."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for entry in self.folder.iterdir() if (m := _NAME.fullmatch(entry.name)))

    def save(self, checkpoint: Checkpoint, record: Mapping[str, Any]) -> Path:
        """Write a checkpoint that appears whole.

        `adapter.safetensors` in it is what one would draw with: the average where there is one.

        Raises:
            OSError: The disk is full, say; what stood before still stands.
        """
        target = self.path(checkpoint.step)
        remove_leftovers(self.folder)
        with whole_directory(target) as folder:
            save_adapter(folder / "adapter.safetensors", checkpoint.ema or checkpoint.adapter, record)
            if checkpoint.ema:
                save_adapter(folder / "weights.safetensors", checkpoint.adapter, record)
            write_tensors(folder / "optimizer.safetensors", checkpoint.optimizer)
            write_json(
                folder / "state.json",
                {"step": checkpoint.step, "optimizer": checkpoint.optimizer_rest, "run": checkpoint.state},
            )
            sums = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
            write_json(folder / "manifest.json", {"step": checkpoint.step, "sha256": sums})
        return target

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and a sentence about every newer one that is damaged."""
        complaints: list[str] = []
        for step in reversed(self.steps()):
            fault = damage(self.path(step))
            if fault is None:
                return load_checkpoint(self.path(step)), complaints
            complaints.append(f"checkpoint {self.path(step).name} is damaged ({fault}): an earlier one is used")
        return None, complaints

    def rotate(self, keep: int, best: int | None) -> None:
        """Delete all but the newest `keep` and the best."""
        for step in self.steps()[:-keep]:
            if step != best:
                remove_directory(self.path(step))

    def forget_after(self, step: int) -> None:
        """Delete checkpoints newer than `step`: what a run that goes on from there will write again."""
        for newer in self.steps():
            if newer > step:
                remove_directory(self.path(newer))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint directory, or None when every file has its sum."""
    try:
        sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return "no readable manifest.json"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != expected:
            return f"{name} has another sha256"
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint directory.

    Raises:
        UserError: Not a whole checkpoint.
    """
    fault = damage(folder)
    if fault:
        raise UserError("not a whole checkpoint", got=f"{folder} ({fault})", fix="choose another checkpoint directory")
    record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    drawn, _ = read_tensors(folder / "adapter.safetensors")
    weights_file = folder / "weights.safetensors"
    averaged = weights_file.is_file()
    weights = read_tensors(weights_file)[0] if averaged else drawn
    optimizer, _ = read_tensors(folder / "optimizer.safetensors")
    return Checkpoint(
        int(record["step"]), weights, drawn if averaged else {}, optimizer, record["optimizer"], record["run"]
    )
