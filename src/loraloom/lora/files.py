"""The adapter's own file, and finding one where a user points.

In: a run, a checkpoint directory or an adapter file. Out: an `AdapterFile` (tensors and what the adapter says of
itself), ready for `stack.LoraStack`. Our files keep float32 weights and say what they need; files of other programs are
read too.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from loraloom.lora.hub import find_on_hub, is_hub_place
from loraloom.lora.layers import LoraLayer
from loraloom.lora.reading import Updates, check_tensors, read_updates
from loraloom.lora.record import FULL_FORMAT, KEY, read_record
from loraloom.lora.strength import Strength, read_strength
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import MAX_FILE_BYTES, Header, TensorInfo, read_header, read_tensors, write_tensors
from loraloom.utils.untrusted import check_regular_file

_CHECKPOINT = re.compile(r"(?:step|latest)_(\d{1,12})")


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """An adapter on disk. Its header is read and checked; its tensors are read for a model that they fit.

    Attributes:
        path: The safetensors file.
        infos: What the header says of each tensor.
        record: What our own files say: rank, alpha, target, base model, trigger, prompt method, dataset, size;
            empty for files of other programs.
        metadata: The file's whole metadata.
        strength: What is stated about alpha outside the tensors.
    """

    path: Path
    infos: Mapping[str, TensorInfo]
    record: Mapping[str, Any]
    metadata: Mapping[str, str]
    strength: Strength

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the file's bytes."""
        return sha256_file(self.path)

    def updates(self, model: DiffusionModel) -> Updates:
        """What the file does to `model`, whose weights are not read.

        Raises:
            UserError: It does not fit.
        """
        return read_updates(model, self.infos, self._tensors, self.strength, self.metadata)

    def layers(self, model: DiffusionModel) -> tuple[LoraLayer, ...]:
        """The layers of a plain LoRA with the module names of `model`, whose weights are not read.

        Raises:
            UserError: It does not fit, or is of another kind.
        """
        updates = self.updates(model)
        if updates.deltas:
            dora = any(delta.requires_base for delta in updates.deltas)
            why = " (a DoRA's update is computed from the base's own weights)" if dora else ""
            raise UserError(
                f"{self.path.name} is not a plain LoRA{why}",
                fix="generate with it; it cannot be continued or exported as one",
            )
        return updates.layers

    def _tensors(self) -> Mapping[str, Tensor]:
        tensors, _ = read_tensors(self.path)
        if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != {
            key: info.shape for key, info in self.infos.items()
        }:
            raise UserError(f"{self.path.name} changed while it was read", fix="try again")
        return tensors


def save_adapter(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write adapter.safetensors: float32 weights with the keys of diffusers, and the JSON record."""
    # One key only: the library writes several in an order that differs from process to process.
    write_tensors(path, tensors, {KEY: json.dumps(record, sort_keys=True)})


def find_adapter(place: Path) -> Path:
    """The adapter file that a user means by a run, a checkpoint directory, a file or a hub id.

    Raises:
        UserError: There is none; says what is there.
    """
    if not place.exists() and not place.is_symlink():
        if is_hub_place(place):
            return find_on_hub(place)
        raise UserError(
            "no such adapter", got=str(place), expected="a run folder, a checkpoint folder or a .safetensors file"
        )
    if not place.is_dir():
        check_regular_file(place, "the adapter", max_bytes=MAX_FILE_BYTES)
        return place
    direct = place / "adapter.safetensors"
    checkpoints = {
        int(match[1]): file
        for file in (place / "checkpoints").glob("*_*/adapter.safetensors")
        if (match := _CHECKPOINT.fullmatch(file.parent.name))
    }
    newest = max(checkpoints, default=-1)
    # A finished run that was made longer holds checkpoints that are newer than its last adapter.
    if checkpoints and not (direct.is_file() and _step_of(direct) >= newest):
        return checkpoints[newest]
    if direct.is_file():
        return direct
    others = sorted(place.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    raise UserError(
        "no adapter in this folder",
        got=str(place),
        expected="adapter.safetensors or checkpoints/step_*",
        fix="name one file: " + ", ".join(file.name for file in others) if others else "has the run saved yet?",
    )


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Step and adapter file of each checkpoint of a run, ascending; whether a file is whole is not looked at.

    Where a step has a numbered checkpoint and a rolling one, the numbered one counts.
    """
    found: dict[int, Path] = {}
    for file in sorted((run / "checkpoints").glob("*_*/adapter.safetensors")):  # `latest_` comes before `step_`
        if match := _CHECKPOINT.fullmatch(file.parent.name):
            found[int(match[1])] = file
    return sorted(found.items())


def read_adapter(place: Path) -> AdapterFile:
    """Read the adapter that `place` means.

    Raises:
        UserError: None there, not safetensors, weights that are no weights, or a record or strength that is not understood.
    """
    path = find_adapter(place)
    header = _read_header(path)
    record = read_record(header.metadata, path.name)
    if record.get("format") == FULL_FORMAT:
        raise UserError(
            "this is a run of method full: it made a model, not an adapter",
            got=str(place),
            fix=f"generate with --model {place / 'model' if place.is_dir() else 'RUN/model'}",
        )
    check_tensors(header.tensors, path.name)
    peft_names = (
        any(key.startswith("base_model.model.") for key in header.tensors) or path.name == "adapter_model.safetensors"
    )
    strength = read_strength(path, header.metadata, record.get("alpha"), peft_names=peft_names)
    return AdapterFile(path=path, infos=header.tensors, record=record, metadata=header.metadata, strength=strength)


def _step_of(path: Path) -> int:
    return int(read_record(_read_header(path).metadata, path.name).get("step", 0))


def _read_header(path: Path) -> Header:
    """`read_header`; the fault of a file that a run made here is not mended by downloading it again."""
    try:
        return read_header(path)
    except UserError as error:
        folder = path.parent
        if _CHECKPOINT.fullmatch(folder.name) and folder.parent.name == "checkpoints":
            others = sorted(p.name for p in folder.parent.glob("step_*") if p != folder)
            fix = f"name another checkpoint, such as {others[-1]}" if others else "start the run again"
        elif path.name == "adapter.safetensors" and (folder / "run.yaml").is_file():
            fix = f"delete {path}, and start the same `train` command again: it makes it again from its last checkpoint"
        else:
            raise
        raise UserError(error.what, got=error.got, expected=error.expected, fix=fix) from None
