"""Exports for other programs, each reloaded and compared before it is called saved.

In: an adapter's layers and its record. Out: `pytorch_lora_weights.safetensors` (diffusers), `<name>.safetensors` (kohya,
A1111, ComfyUI) and for some families `native/adapter_model.safetensors` (peft's own, on the original code's names), with the
metadata those programs read, and the measured difference of each.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from loraloom.lora.key_formats import to_diffusers, to_kohya, to_native
from loraloom.lora.layers import LoraLayer
from loraloom.lora.record import KEY
from loraloom.lora.strength import CONFIG_NAME
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.atomic_files import sha256_bytes, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.rng import normal
from loraloom.utils.safetensors_io import write_tensors

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
NATIVE_NAME = "native/adapter_model.safetensors"
"""As peft names its file, in a folder of its own with `adapter_config.json`."""


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """What an exported file does in a fresh pipeline of the reference implementation.

    Attributes:
        file: The export.
        difference: Largest absolute difference of its latents to ours.
        effect: Largest absolute difference that the adapter makes to the base's latents.
    """

    file: Path
    difference: float
    effect: float

    @property
    def good(self) -> bool:
        """Whether the export does what the adapter does: within 5 % of its effect (half precision rounds)."""
        return self.difference <= 0.05 * self.effect + 1e-4


def export_adapter(
    model: DiffusionModel, layers: Sequence[LoraLayer], record: Mapping[str, Any], folder: Path, name: str, dtype: str
) -> list[Path]:
    """Write every key format of the family and return the paths; no weights of the model are read.

    The native format is left out where other parts than the denoiser learned: see `program_lines`.

    Args:
        model: Names and fuses layers.
        layers: The adapter's layers.
        record: What the adapter says of itself.
        folder: Where to write; created.
        name: Name of the adapter, for its files.
        dtype: fp32, fp16 or bf16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = diffusers_metadata(model, record, name)
    files = [folder / DIFFUSERS_NAME, folder / f"{name}.safetensors"]
    _write(files[0], to_diffusers(model, layers, DTYPES[dtype]), metadata)
    _write(files[1], to_kohya(model, layers, DTYPES[dtype]), metadata)
    if "native" in model.lora_format.programs and {layer.part for layer in layers} == {model.info.denoiser.name}:
        files.append(folder / NATIVE_NAME)
        files[2].parent.mkdir(exist_ok=True)
        tensors, config = to_native(model, layers, DTYPES[dtype])
        _write(files[2], tensors, _without_rank(metadata))
        write_json(files[2].parent / CONFIG_NAME, config)
    return files


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    total = tensor_hash(tensors)
    write_tensors(file, tensors, {**metadata, "modelspec.hash_sha256": f"0x{total}", "sshs_model_hash": total})


def _without_rank(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without rank and alpha of the whole file: layers that are fused have another rank."""
    record = {key: value for key, value in json.loads(metadata[KEY]).items() if key not in ("rank", "alpha")}
    kept = {key: value for key, value in metadata.items() if key not in ("ss_network_dim", "ss_network_alpha")}
    return {**kept, KEY: json.dumps(record, sort_keys=True)}


def program_lines(model: DiffusionModel, adapter: Path, files: list[Path]) -> list[str]:
    """Which file is for which program, and for which there is none: one line each, for the end of a training."""
    programs = model.lora_format.programs
    lines = [f"for loraloom: {adapter}"]
    for file in files:
        lines.append(f"for {programs[_format_of(file)]}: {file}")
    if "native" in programs and not any(_format_of(file) == "native" for file in files):
        lines.append(f"note: no file in the layout of {programs['native']}: it holds the denoiser's layers only")
    return lines


def _format_of(file: Path) -> str:
    """The key format of an exported file."""
    return {DIFFUSERS_NAME: "diffusers", Path(NATIVE_NAME).name: "native"}.get(file.name, "kohya")


def verify_exports(
    model: DiffusionModel,
    files: list[Path],
    ours_bchw: Tensor,
    request: ImageRequest,
    base_bchw: Tensor | None = None,
) -> list[ExportCheck]:
    """Generate `request` with each export in a fresh pipeline and compare with our latents for the same noise.

    `base_bchw` is what a fresh pipeline generates without an adapter; it is generated here where it is not given.
    """
    noise_bchw = first_noise(model, request)
    if base_bchw is None:
        base_bchw = model.reference_latents(None, request, noise_bchw)
    effect = float((ours_bchw.cpu() - base_bchw).abs().max())
    checks: list[ExportCheck] = []
    for file in files:
        theirs_bchw = model.reference_latents(file, request, noise_bchw)
        checks.append(ExportCheck(file, float((theirs_bchw - ours_bchw.cpu()).abs().max()), effect))
    return checks


def first_noise(model: DiffusionModel, request: ImageRequest) -> Tensor:
    """(1, c, h, w) the noise that a request starts from, decided by its seed alone."""
    info = model.info
    shape = (info.latent_channels, request.height // info.vae_scale_factor, request.width // info.vae_scale_factor)
    return normal(shape, request.seed, "picture")[None]


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of all that follows the header of the file that `write_tensors` makes of these tensors.

    ModelSpec's `hash_sha256` and sd-scripts' `sshs_model_hash` are this sum: metadata does not change it.
    """
    data = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    return sha256_bytes(data[8 + int.from_bytes(data[:8], "little") :])


def diffusers_metadata(model: DiffusionModel, record: Mapping[str, Any], name: str) -> dict[str, str]:
    """The `ss_*` keys of sd-scripts and the `modelspec.*` keys of Stability's ModelSpec 1.0.0, and our record."""
    rank, size = record.get("rank"), record.get("size", "")
    base = {name: value for name, value in (record.get("base") or {}).items() if name != "path"}  # of this machine
    said = {**record, "base": base, "alpha": rank}  # the scale is baked in
    values: dict[str, Any] = {
        "format": "pt",
        KEY: json.dumps(said, sort_keys=True),
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": float(rank) if rank is not None else "",
        "ss_output_name": name,
        "ss_base_model_version": model.lora_format.kohya_version,
        "ss_sd_model_name": model.info.source.location,
        "ss_new_sd_model_hash": record.get("base_file_sha256"),
        "ss_resolution": size,
        "ss_num_train_images": record.get("num_images", ""),
        "ss_steps": record.get("step", ""),
        "ss_epoch": record.get("epoch"),
        "ss_batch_size_per_device": record.get("batch_size"),
        "ss_gradient_accumulation_steps": record.get("accumulation"),
        "ss_optimizer": record.get("optimizer"),
        "ss_lr_scheduler": record.get("scheduler"),
        "ss_clip_skip": model.info.clip_skip,
        "ss_mixed_precision": record.get("precision"),
        "ss_max_train_steps": record.get("max_steps", ""),
        "ss_learning_rate": record.get("learning_rate", ""),
        "ss_seed": record.get("seed", ""),
        "ss_training_comment": f"trained with loraloom; trigger: {record.get('trigger', '')}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{model.lora_format.architecture}/lora",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": name,
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.resolution": size,
        "modelspec.trigger_phrase": record.get("trigger", ""),
        "modelspec.prediction_type": {"v_prediction": "v", "epsilon": "epsilon"}.get(
            model.info.schedule.prediction_type
        ),
    }
    return {key: str(value) for key, value in values.items() if value is not None}
