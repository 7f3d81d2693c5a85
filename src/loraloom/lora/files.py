"""The adapter's own file, and finding one where a user points.

In: a run, a checkpoint directory or an adapter file. Out: an `AdapterFile` (tensors and what the adapter says of
itself), ready to be put on a model. Our files keep float32 weights and say what they need; files of other programs are
read too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from loraloom.contracts import DiffusionModel
from loraloom.errors import UserError
from loraloom.files import sha256_file
from loraloom.lora.attach import Adapter, attach_tensors
from loraloom.lora.layout import Layers, from_tensors
from loraloom.weights import read_tensors, write_tensors

KEY = "loraloom"
"""Metadata key of our own JSON record."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as it lies on disk.

    Attributes:
        path: The safetensors file.
        tensors: As stored.
        record: What our own files say: rank, alpha, target, base model, trigger, prompt method, dataset, size;
            empty for files of other programs.
        metadata: The file's whole metadata.
        sha256: Of the file's bytes.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]
    metadata: Mapping[str, str]
    sha256: str

    def layers(self, model: DiffusionModel) -> Layers:
        """The layers with the module names of `model`; raises `UserError` when they do not fit."""
        alpha = self.record.get("alpha")
        if alpha is None:
            alpha = _alpha_of_diffusers(self.metadata)
        return from_tensors(model, self.tensors, float(alpha) if alpha is not None else None, self.path.name)


def save_adapter(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write adapter.safetensors: float32 weights in the exchange spelling and the JSON record."""
    # One key only: the library writes several in an order that differs from process to process.
    write_tensors(path, tensors, {KEY: json.dumps(record, sort_keys=True)})


def find_adapter(place: Path) -> Path:
    """The adapter file that a user means by a run, a checkpoint directory or a file.

    Raises:
        UserError: There is none; says what is there.
    """
    if place.is_file():
        return place
    if not place.exists():
        raise UserError(
            "no such adapter", got=str(place), expected="a run folder, a checkpoint folder or a .safetensors file"
        )
    direct = place / "adapter.safetensors"
    checkpoints = sorted((place / "checkpoints").glob("step_*/adapter.safetensors"))
    # A finished run that was made longer holds checkpoints that are newer than its last adapter.
    if checkpoints and not (direct.is_file() and _step_of(direct) >= int(checkpoints[-1].parent.name[5:])):
        return checkpoints[-1]
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


def read_adapter(place: Path) -> AdapterFile:
    """Read the adapter that `place` means.

    Raises:
        UserError: None there, not safetensors, or NaN weights.
    """
    path = find_adapter(place)
    tensors, metadata = read_tensors(path)
    try:
        record = json.loads(metadata.get(KEY, "{}"))
    except ValueError as error:
        raise UserError(f"{path.name}: its {KEY} record is not JSON ({error})") from None
    if isinstance(record, dict) and str(record.get("format", "")).startswith("loraloom.full"):
        raise UserError(
            "this is a run of method full: it made a model, not an adapter", got=str(place),
            fix=f"draw with --model {place / 'model' if place.is_dir() else 'RUN/model'}",
        )  # fmt: skip
    return AdapterFile(path, tensors, record if isinstance(record, dict) else {}, metadata, sha256_file(path))


def _step_of(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return int(json.loads((file.metadata() or {}).get(KEY, "{}")).get("step", 0))


def put_on(model: DiffusionModel, file: AdapterFile, name: str, weight: float = 1.0) -> Adapter:
    """Attach a file's layers to a model as adapter `name`, multiplied by `weight`."""
    return attach_tensors(model, name, file.layers(model), weight)


def _alpha_of_diffusers(metadata: Mapping[str, str]) -> float | None:
    """The scale that diffusers keeps in its own metadata key, when one value holds for all layers."""
    try:
        record = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return None
    alphas = {value for key, value in record.items() if key.endswith("lora_alpha")}
    return float(alphas.pop()) if len(alphas) == 1 else None
