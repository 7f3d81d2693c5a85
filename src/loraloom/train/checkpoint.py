"""Checkpoints that are whole or not there.

In: an adapter, an optimizer, a few numbers. Out: `checkpoints/step_0000100/` with a manifest of sha256 sums, written
beside, fsynced and renamed; or the newest whole one read back. The old one goes only after the new one stands.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from loraloom.lora.files import save_adapter
from loraloom.utils.atomic_files import remove_directory, remove_leftovers, sha256_file, whole_directory, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.safetensors_io import check_safetensors, read_tensors, write_tensors
from loraloom.utils.untrusted import (
    MAX_RECORD_BYTES,
    check_range,
    check_regular_file,
    is_file,
    library_errors,
    parse_record,
    read_json_object,
    read_text,
    shown,
)

_NAME = re.compile(r"step_(\d{7,12})")
_FILES = frozenset({"adapter.safetensors", "optimizer.safetensors", "state.json"})
_NUMBERS = {"loss_scale": 0, "good_steps": 0, "best_step": 0, "best_loss": -1e300, "skipped_in_row": 0, "devices": 1}
"""Numbers of the run's state, each with its lowest value."""
_FRACTIONS = frozenset({"loss_scale", "best_loss"})
MAX_STEP = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
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
                try:
                    return load_checkpoint(self.path(step)), complaints
                except UserError as error:  # its sums are right, but what they are of is no checkpoint
                    fault = str(error).splitlines()[0]
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
        record = read_json_object(folder / "manifest.json", "manifest.json")
    except UserError:
        return "no readable manifest.json"
    sums = record.get("sha256")
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        return "manifest.json names no sums"
    if missing := sorted(_FILES - sums.keys()):
        return f"manifest.json has no sum of {missing[0]}"
    for name, expected in sums.items():
        if path_problem(name) or "/" in name:
            return f"manifest.json names {shown(name)!s}, which is no file of a checkpoint"
        if not is_file(folder / name):
            return f"{name} is missing"
        try:  # before its sum: a file of the wrong kind may be endless
            if name.endswith(".safetensors"):
                check_safetensors(folder / name)
            else:
                check_regular_file(folder / name, name, max_bytes=MAX_RECORD_BYTES)
            with library_errors("a checkpoint's file", folder / name):
                actual = sha256_file(folder / name)
        except UserError as error:
            return str(error).splitlines()[0]
        if actual != expected:
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
    where = f"{folder.name}/state.json"
    text = read_text(folder / "state.json", where, max_bytes=MAX_RECORD_BYTES)
    record = parse_record(_State, text, where, fix="choose another checkpoint directory")
    for key, low in _NUMBERS.items():
        if record.run.get(key) is not None:
            check_range(record.run[key], f"{where}: {key}", low, 1e300, whole=key not in _FRACTIONS)
    drawn, _ = read_tensors(folder / "adapter.safetensors")
    weights_file = folder / "weights.safetensors"
    averaged = weights_file.is_file()
    weights = read_tensors(weights_file)[0] if averaged else drawn
    optimizer, _ = read_tensors(folder / "optimizer.safetensors")
    return Checkpoint(
        step=record.step,
        adapter=weights,
        ema=drawn if averaged else {},
        optimizer=optimizer,
        optimizer_rest=record.optimizer,
        state=record.run,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """`state.json`."""

    step: Annotated[int, Field(ge=0, le=MAX_STEP)]
    optimizer: dict[str, Any]
    run: dict[str, Any]
