"""Checkpoints that are whole or not there.

In: the states of a run's components. Out: `checkpoints/step_0000100/` with a manifest of sha256 sums, written
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
    check_regular_file,
    is_file,
    library_errors,
    parse_record,
    read_json_object,
    read_text,
    shown,
)

LAYOUT = 2
"""Version of the files of a checkpoint. Those of version 1 named the optimizer's tensors and a few numbers by hand."""

_NAME = re.compile(r"step_(\d{7,12})")
_FILES = frozenset({"adapter.safetensors", "state.safetensors", "state.json"})
MAX_STEP = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a run needs to continue as if nothing had happened.

    Attributes:
        step: Finished optimizer steps.
        components: The state of each component of the run by its name: tensors and JSON values.
        weights_of: The component whose state is all tensors and is what one would generate images with.
    """

    step: int
    components: Mapping[str, Mapping[str, Any]]
    weights_of: str


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

        `adapter.safetensors` in it is what one would generate images with: the average where there is one. The tensors of
        all other components are in `state.safetensors` as `component/name`, all that is not a tensor in `state.json`.

        Raises:
            OSError: The disk is full, say. Earlier checkpoints are not touched.
        """
        target = self.path(checkpoint.step)
        remove_leftovers(self.folder)
        tensors: dict[str, Tensor] = {}
        values: dict[str, dict[str, Any]] = {}
        for name, state in checkpoint.components.items():
            own = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            values[name] = {key: value for key, value in state.items() if key not in own}
            if name != checkpoint.weights_of:
                tensors |= {f"{name}/{key}": value for key, value in own.items()}
        with whole_directory(target) as folder:
            save_adapter(folder / "adapter.safetensors", checkpoint.components[checkpoint.weights_of], record)
            write_tensors(folder / "state.safetensors", tensors)
            write_json(
                folder / "state.json",
                {"step": checkpoint.step, "weights_of": checkpoint.weights_of, "components": values},
            )
            sums = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
            write_json(folder / "manifest.json", {"layout": LAYOUT, "step": checkpoint.step, "sha256": sums})
        return target

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and a sentence about every newer one that is damaged.

        Raises:
            UserError: A checkpoint that is not older than the newest whole one was written by another version.
        """
        complaints: list[str] = []
        for step in reversed(self.steps()):
            check_layout(self.path(step))
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
        """Delete checkpoints newer than `step`: a run that resumes there writes them again."""
        for newer in self.steps():
            if newer > step:
                remove_directory(self.path(newer))


def check_layout(folder: Path) -> None:
    """Raise `UserError` for a checkpoint of another version; one without a readable manifest passes, it is damaged."""
    try:
        record = read_json_object(folder / "manifest.json", "manifest.json")
    except UserError:
        return
    layout = record.get("layout", 1)
    if layout != LAYOUT:
        raise UserError(
            f"checkpoint {folder.name} was written by another version of loraloom",
            got=shown(layout),
            expected=f"layout {LAYOUT}",
            fix="finish the run with the version that began it, or train again in another --out",
        )


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
        UserError: Not a whole checkpoint, or one of another version.
    """
    check_layout(folder)
    fault = damage(folder)
    if fault:
        raise UserError("not a whole checkpoint", got=f"{folder} ({fault})", fix="choose another checkpoint directory")
    where = f"{folder.name}/state.json"
    text = read_text(folder / "state.json", where, max_bytes=MAX_RECORD_BYTES)
    record = parse_record(_State, text, where, fix="choose another checkpoint directory")
    components = {name: dict(state) for name, state in record.components.items()}
    if record.weights_of not in components:
        raise UserError(f"{where}: weights_of", got=shown(record.weights_of), expected="one of the components")
    tensors, _ = read_tensors(folder / "state.safetensors")
    for key, tensor in tensors.items():
        name, _, own = key.partition("/")
        if name not in components:
            raise UserError("state.safetensors has a tensor of no component", got=shown(key))
        components[name][own] = tensor
    components[record.weights_of] |= read_tensors(folder / "adapter.safetensors")[0]
    return Checkpoint(step=record.step, components=components, weights_of=record.weights_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """`state.json`."""

    step: Annotated[int, Field(ge=0, le=MAX_STEP)]
    weights_of: str
    components: dict[str, dict[str, Any]]
