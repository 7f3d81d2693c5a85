"""Files that the tools write: in a key format, with their origin in the metadata, read back and compared before they appear.

In: `LoraLayer` records by place, and where they come from. Out: a file or a folder that appears whole, and how much rounding
to its dtype changed. alpha / rank is multiplied into B, so that the alpha is the rank of each layer.

    diffusers  one file; layers of several ranks are described in `lora_adapter_metadata`
    kohya      one file; one `.alpha` for all layers
    peft       a folder with `adapter_model.safetensors` and `adapter_config.json`; one in it for each part if there are several
    native     the same on the names of the model's original code, such as Tencent's for HunyuanDiT; the denoiser only
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraloom import __version__
from loraloom.lora.export import tensor_hash
from loraloom.lora.key_formats import to_diffusers, to_kohya, to_native
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import Place, difference
from loraloom.lora.record import FORMAT, KEY
from loraloom.lora.strength import CONFIG_NAME, METADATA_KEY
from loraloom.lora.tool_input import ToolInput, read_input
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.atomic_files import whole_directory, whole_file, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.output_paths import check_file, check_folder
from loraloom.utils.safetensors_io import write_tensors
from loraloom.utils.untrusted import is_there

KEY_FORMATS = ("diffusers", "kohya", "peft", "native")
FOLDERS = ("peft", "native")
"""Those that are folders."""
PEFT_NAME = "adapter_model.safetensors"
MAX_STEPS = 20
"""Tools in a row that a file's record names, the last ones."""

_TOLERANCE = {"fp32": 1e-6, "fp16": 5e-3, "bf16": 2e-2}
"""Largest relative difference between what was to be written and what is read back."""
_OF_STRENGTH = ("ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_network_module", METADATA_KEY)
_OF_CONTENT = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "format", KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file or folder that was written, read back and compared.

    Attributes:
        path: The file or folder.
        rounding: Relative difference of what is read back, in the Frobenius norm.
        num_bytes: Its size.
    """

    path: Path
    rounding: float
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a file comes from, for its metadata.

    Attributes:
        tool: The verb, such as `lora resize`.
        inputs: The files that were read.
        settings: What the user chose, as JSON values.
        error: Relative error of the tool in all, in the Frobenius norm; None where it is exact.
        models: Whole models that were read: `file` and `sha256` of each.
    """

    tool: str
    inputs: Sequence[ToolInput]
    settings: Mapping[str, Any]
    error: float | None = None
    models: Sequence[Mapping[str, str]] = ()

    def step(self) -> dict[str, Any]:
        """One step of a file's history, for its record."""
        files: list[dict[str, Any]] = [
            {"file": one.name, "sha256": one.file.sha256, "scale": one.scale} for one in self.inputs
        ]
        files += [dict(model) for model in self.models]
        step = {"tool": f"loraloom {__version__} {self.tool}", "inputs": files, "settings": dict(self.settings)}
        return step if self.error is None else {**step, "error": self.error}


def check_output(
    out: Path, key_format: str, model: DiffusionModel | None, *, overwrite: bool, model_follows: bool = False
) -> None:
    """See that a tool can write there in this key format, before it works; `model_follows`: a model is opened later.

    Raises:
        UserError: An unknown key format, one that requires a model, or something is there already.
    """
    if key_format not in KEY_FORMATS:
        raise UserError("unknown key format", got=key_format, fix=did_you_mean(key_format, KEY_FORMATS))
    if key_format in FOLDERS:
        if model is None and not model_follows:
            raise UserError(f"the layout {key_format} names the model's modules", fix="name the base with --model")
        check_folder(out)
    else:
        if out.suffix != ".safetensors":
            raise UserError("the output is no .safetensors file", got=str(out), fix="such as --out merged.safetensors")
        if out.name == PEFT_NAME:
            raise UserError(
                "this is peft's own name for a file", got=out.name, fix="choose another name, or --format peft"
            )
        check_file(out)
    if is_there(out) and not overwrite:
        raise UserError("the output is there already", got=str(out), fix="choose another name, or add --overwrite")


def write_lora(
    model: DiffusionModel | None,
    layers: Mapping[Place, LoraLayer],
    out: Path,
    *,
    key_format: str,
    dtype: str,
    metadata: Mapping[str, str],
) -> Written:
    """Write layers, read them back, compare, and only then give the file its name.

    Args:
        model: Names the layers; None where the places are the file's own names (see `tool_input`).
        layers: By place.
        out: A file; for peft and native a folder.
        key_format: One of `KEY_FORMATS`.
        dtype: fp32, fp16 or bf16.
        metadata: See `metadata_of`.

    Raises:
        UserError: The dtype loses too much, what is read back is not what was written, or the key format cannot hold the
            layers.
    """
    baked = {
        place: replace(layer, up=layer.up * layer.factor, alpha=float(layer.rank)) for place, layer in layers.items()
    }
    if key_format in FOLDERS:
        assert model is not None, "checked by check_output"
        return _write_folder(model, baked, out, key_format, dtype, metadata)
    with whole_file(out) as file:
        _write_file(model, baked, file, key_format, dtype, metadata)
        rounding = _compare(baked, read_input(file, model).layers, dtype, out)
        num_bytes = file.stat().st_size
    return Written(path=out, rounding=rounding, num_bytes=num_bytes)


def metadata_of(
    model: DiffusionModel | None, layers: Mapping[Place, LoraLayer], origin: Origin, name: str
) -> dict[str, str]:
    """The metadata of a file that a tool wrote.

    Of one input all that still holds is kept; of several, what they agree on.
    """
    inputs = origin.inputs
    kept = dict(inputs[0].file.metadata) if inputs else {}
    for other in inputs[1:]:
        kept = {key: value for key, value in kept.items() if other.file.metadata.get(key) == value}
    kept = {key: value for key, value in kept.items() if key not in (*_OF_STRENGTH, *_OF_CONTENT)}
    record = _record(model, origin)
    ranks = {layer.rank for layer in layers.values()}
    rank = ranks.pop() if len(ranks) == 1 else None
    if rank is not None:
        record |= {"rank": rank, "alpha": float(rank)}
    if model is not None:
        kept.setdefault("ss_base_model_version", model.lora_format.kohya_version)
        kept.setdefault("modelspec.architecture", f"{model.lora_format.architecture}/lora")
        kept.setdefault("modelspec.sai_model_spec", "1.0.0")
    trigger = record.get("trigger")
    return {
        **kept,
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic" if rank is None else str(rank),  # as sd-scripts' resize_lora.py writes it
        "ss_network_alpha": "Dynamic" if rank is None else str(float(rank)),
        "ss_output_name": name,
        "modelspec.title": name,
        **({"modelspec.trigger_phrase": trigger} if trigger else {}),
        KEY: json.dumps(record, sort_keys=True),
    }


def _record(model: DiffusionModel | None, origin: Origin) -> dict[str, Any]:
    """Our record: of one input its own with the step added; of several the fields on which they agree, and all triggers."""
    records = [dict(one.file.record) for one in origin.inputs]
    first: dict[str, Any] = records[0] if records else {}
    record = {name: value for name, value in first.items() if all(one.get(name) == value for one in records[1:])}
    for name in ("rank", "alpha", "made_by"):
        record.pop(name, None)
    triggers = dict.fromkeys(trigger for one in records if isinstance(trigger := one.get("trigger"), str) and trigger)
    if triggers:
        record["trigger"] = ", ".join(triggers)[:4096]
    if isinstance(base := record.get("base"), dict):
        record["base"] = {name: value for name, value in base.items() if name != "path"}  # relative to another folder
    elif model is not None:
        record |= {"family": model.info.family, "base": base_record(model.info.source)}
    before = first.get("made_by") if len(records) == 1 else None
    steps = [*(before if isinstance(before, list) else []), origin.step()]
    return {**record, "format": FORMAT, "made_by": steps[-MAX_STEPS:]}


def base_record(source: ModelSource) -> dict[str, Any]:
    """A model's source as an adapter's record names it."""
    return {
        "source": source.location,
        "revision": source.revision,
        "variant": source.variant,
        "config": source.config,
        "prediction_type": source.prediction_type,
        **({"options": list(source.options)} if source.options else {}),
    }


# ------------------------------------------------------------------------------------------------------- key formats


def _write_file(
    model: DiffusionModel | None,
    layers: Mapping[Place, LoraLayer],
    file: Path,
    key_format: str,
    dtype: str,
    metadata: Mapping[str, str],
) -> None:
    if model is None:
        tensors = _with_own_names(layers, key_format)
    else:
        tensors = (to_kohya if key_format == "kohya" else to_diffusers)(model, layers.values(), torch.float32)
    if key_format == "kohya":
        tensors = _with_one_alpha(tensors, _common_rank(layers))
    tensors = {key: tensor if key.endswith(".alpha") else tensor.to(DTYPES[dtype]) for key, tensor in tensors.items()}
    if key_format == "diffusers" and len({layer.rank for layer in layers.values()}) > 1:
        metadata = {**metadata, METADATA_KEY: json.dumps(_described(model, layers), sort_keys=True)}
    _check_range(tensors, dtype)
    total = tensor_hash(tensors)
    write_tensors(file, tensors, {**metadata, "modelspec.hash_sha256": f"0x{total}", "sshs_model_hash": total})


def _with_own_names(layers: Mapping[Place, LoraLayer], key_format: str) -> dict[str, Tensor]:
    """Tensors by keys of the names that the places have."""
    tensors: dict[str, Tensor] = {}
    for (part, module), layer in layers.items():
        down, up, alpha = layer.down, layer.up, torch.tensor(layer.alpha)
        if key_format == "kohya":
            stem = f"{part}_{module}"
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": alpha}
        else:
            tensors |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    return tensors


def _common_rank(layers: Mapping[Place, LoraLayer]) -> int:
    return Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]


def _with_one_alpha(tensors: Mapping[str, Tensor], alpha: int) -> dict[str, Tensor]:
    """kohya's tensors of layers whose alpha is their rank, with one alpha for all and the rest multiplied into B.

    Every program reads that alike. Of several alphas in a file of kohya, diffusers (to 0.42) takes the most common one for all
    layers: it looks for the others under names that no module has. The alpha stays float32: bfloat16 holds whole numbers up to
    256 only.
    """
    found = dict(tensors)
    for key in [key for key in found if key.endswith(".alpha")]:
        stem = key.removesuffix(".alpha")
        rank = found[f"{stem}.lora_down.weight"].shape[0]
        found[f"{stem}.lora_up.weight"] = found[f"{stem}.lora_up.weight"] * (rank / alpha)
        found[key] = torch.tensor(float(alpha))
    return found


def _described(model: DiffusionModel | None, layers: Mapping[Place, LoraLayer]) -> dict[str, Any]:
    """`lora_adapter_metadata` of diffusers: peft's config of each part, with the part's name before each field.

    Older diffusers takes one alpha for all layers of a file without it, so that layers of other ranks have another strength.
    The names are ends of module names, which hold in every version of transformers.
    """
    said: dict[str, Any] = {}
    for part in {part for part, _ in layers}:
        component = part if model is None else model.lora_format.component(part)
        ranks = {
            module.removeprefix("text_model."): layer.rank for (one, module), layer in layers.items() if one == part
        }
        said |= {f"{component}.{field}": value for field, value in peft_config(ranks).items()}
    return said


def peft_config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """The fields of peft's `LoraConfig` for layers whose alpha is their rank."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    other = {name: rank for name, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _write_folder(
    model: DiffusionModel,
    layers: Mapping[Place, LoraLayer],
    out: Path,
    key_format: str,
    dtype: str,
    metadata: Mapping[str, str],
) -> Written:
    """A folder for each part, as `PeftModel.save_pretrained` writes it."""
    found: dict[Place, LoraLayer] = {}
    parts = sorted({part for part, _ in layers})
    if key_format == "native":
        _check_native(model, parts)
    # The strength is in the config: rank and alpha of the whole file would have to be right for each part and fused layer.
    record = {name: value for name, value in json.loads(metadata[KEY]).items() if name not in ("rank", "alpha")}
    kept = {key: value for key, value in metadata.items() if key not in _OF_STRENGTH}
    kept[KEY] = json.dumps(record, sort_keys=True)
    with whole_directory(out) as folder:
        for part in parts:
            place = folder if len(parts) == 1 else folder / model.lora_format.component(part)
            place.mkdir(exist_ok=True)
            mine = {module: layer for (one, module), layer in layers.items() if one == part}
            if key_format == "native":
                tensors, config = to_native(model, list(mine.values()), DTYPES[dtype])
            else:
                tensors, config = _to_peft(model, mine, DTYPES[dtype])
            _check_range(tensors, dtype)
            write_json(place / CONFIG_NAME, config)
            write_tensors(place / PEFT_NAME, tensors, kept)
            found |= read_input(place / PEFT_NAME, model).layers
        rounding = _compare(layers, found, dtype, out)
        num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Written(path=out, rounding=rounding, num_bytes=num_bytes)


def _check_native(model: DiffusionModel, parts: Sequence[str]) -> None:
    """Raise `UserError` where a model has no native format, or other parts than the denoiser are changed."""
    if "native" not in model.lora_format.programs:
        known = ", ".join(name for name in KEY_FORMATS if name != "native")
        raise UserError(
            f"models of the kind {model.info.family} have no native key format",
            expected=f"one of {known}",
            fix="use --format",
        )
    if other := [part.replace("_", " ") for part in parts if part != model.info.denoiser.name]:
        fix = "use --format diffusers or kohya, which hold all parts"
        raise UserError("the native key format holds the denoiser only", got=", ".join(other), fix=fix)


def _to_peft(
    model: DiffusionModel, layers: Mapping[str, LoraLayer], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the config of one part."""
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = layer.down.to(dtype)
        tensors[f"base_model.model.{module}.lora_B.weight"] = layer.up.to(dtype)
    config = peft_config({module: layer.rank for module, layer in layers.items()})
    base = model.info.source.location
    more = {"base_model_name_or_path": base, "inference_mode": True, "init_lora_weights": True, "task_type": None}
    return tensors, {**config, **more}


# ---------------------------------------------------------------------------------------------------------- checking


def _compare(written: Mapping[Place, LoraLayer], found: Mapping[Place, LoraLayer], dtype: str, out: Path) -> float:
    """The relative difference of what is read back.

    Raises:
        UserError: It is more than rounding.
    """
    rounding = difference(written, found)
    if rounding <= _TOLERANCE[dtype]:
        return rounding
    fix = "write it with --dtype fp32" if dtype != "fp32" else "report this: it is not what was to be written"
    raise UserError(
        f"{out.name} was not saved: what is read back differs",
        got=f"a relative difference of {rounding:.2g} in {dtype}",
        expected=f"at most {_TOLERANCE[dtype]:g}",
        fix=fix,
    )


def _check_range(tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Raise `UserError` where a number does not fit the dtype."""
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            what = f"a weight does not fit {dtype}"
            raise UserError(what, got=key, fix="write it with --dtype fp32, or use smaller scales")
