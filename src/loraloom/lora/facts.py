"""What an adapter file says of itself, in words: kind, key format, rank and strength by part, base, trigger words, training.

In: an adapter file; no model is read. Out: `Facts`. Tensors are read one after another to look for NaN and infinity, and a
file that holds some, or is refused for another reason, is still described.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.lora.files import find_adapter
from loraloom.lora.kinds import base_named, kind_of, split_key
from loraloom.lora.record import FULL_FORMAT, KEY, read_record
from loraloom.lora.strength import METADATA_KEY, Strength, read_strength
from loraloom.lora.tool_input import DIFFUSERS, KOHYA, key_format_of
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import TensorInfo, is_finite, read_header
from loraloom.utils.untrusted import library_errors, parse_json, shown

_WORDS = {
    "ss_num_train_images": "images",
    "ss_num_reg_images": "regularisation images",
    "ss_num_batches_per_epoch": "batches an epoch",
    "ss_num_epochs": "epochs planned",
    "ss_epoch": "epoch",
    "ss_steps": "steps",
    "ss_max_train_steps": "steps planned",
    "ss_batch_size_per_device": "batch size",
    "ss_total_batch_size": "total batch size",
    "ss_gradient_accumulation_steps": "gradient accumulation",
    "ss_resolution": "image size",
    "ss_learning_rate": "learning rate",
    "ss_unet_lr": "learning rate of the denoiser",
    "ss_text_encoder_lr": "learning rate of the text encoder",
    "ss_lr_scheduler": "learning rate schedule",
    "ss_optimizer": "optimizer",
    "ss_mixed_precision": "mixed precision",
    "ss_clip_skip": "clip skip",
    "ss_noise_offset": "noise offset",
    "ss_min_snr_gamma": "min-SNR gamma",
    "ss_seed": "seed",
    "ss_v2": "Stable Diffusion 2",
    "ss_training_comment": "comment",
    "ss_sd_scripts_commit_hash": "version of sd-scripts",
    "modelspec.date": "date",
    "modelspec.author": "author",
    "modelspec.license": "license",
    "modelspec.prediction_type": "prediction type",
}
"""What keys of sd-scripts and ModelSpec mean."""
_MAX_TAGS = 10
_PEFT_PREFIX = "base_model.model."
_PARTS = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "lora_unet": "denoiser",
    "lora_transformer": "denoiser",
    "lora_te": "text encoder",
    "lora_te1": "text encoder",
    "lora_te2": "text encoder 2",
    "lora_te3": "text encoder 3",
    "text_encoder": "text encoder",
    "text_encoder_2": "text encoder 2",
    "text_encoder_3": "text encoder 3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """One part of an adapter.

    Attributes:
        name: As the keys name it, in words where they are known.
        layers: Number of layers.
        kinds: Kind to number of layers.
        ranks: Rank to number of layers; layers without a rank are left out.
        factors: alpha / rank to number of layers, rounded to 4 digits; None where no alpha is stated.
    """

    name: str
    layers: int
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    factors: Mapping[float | None, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of an adapter file without a model.

    Attributes:
        path: The file.
        sha256: The sha256 of its bytes.
        num_bytes: Its size.
        dtypes: Dtype to number of tensors.
        tensors: Number of tensors.
        key_format: In words.
        parts: Its parts.
        not_read: Keys that belong to no kind that is read.
        faults: What is wrong with it, in sentences.
        non_finite: Names of tensors that hold NaN or infinity.
        base: The base that it names; empty for none.
        triggers: Trigger words.
        tags: Most frequent tags of its captions with their counts, where the file lists them.
        training: Facts about its training, in words.
        made_by: Steps of `loraloom lora` that made it.
        other_metadata: Keys of metadata that are none of the above.
    """

    path: Path
    sha256: str
    num_bytes: int
    dtypes: Mapping[str, int]
    tensors: int
    key_format: str
    parts: tuple[PartFacts, ...]
    not_read: tuple[str, ...]
    faults: tuple[str, ...]
    non_finite: tuple[str, ...]
    base: str
    triggers: tuple[str, ...]
    tags: Mapping[str, int]
    training: Mapping[str, str]
    made_by: tuple[str, ...]
    other_metadata: tuple[str, ...]


def read_facts(place: Path) -> Facts:
    """Describe the adapter that `place` means.

    Raises:
        UserError: There is none, or the file is no safetensors.
    """
    path = find_adapter(place)
    header = read_header(path)
    metadata, faults = header.metadata, list[str]()
    record: dict[str, Any] = {}
    strength = Strength(where=path.name)
    try:
        record = read_record(metadata, path.name)
        if record.get("format") == FULL_FORMAT:
            faults.append("it belongs to a run of method full: its model is in the run's folder `model`")
        peft = any(key.startswith(_PEFT_PREFIX) for key in header.tensors) or path.name == "adapter_model.safetensors"
        strength = read_strength(path, metadata, record.get("alpha"), peft_names=peft)
    except UserError as error:
        faults.append(_sentence(error))
    parts, not_read, more = _parts(path, header.tensors, strength)
    return Facts(
        path=path,
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        dtypes=dict(Counter(info.dtype for info in header.tensors.values()).most_common()),
        tensors=len(header.tensors),
        key_format=_key_format(header.tensors),
        parts=parts,
        not_read=not_read,
        faults=(*faults, *more),
        non_finite=non_finite(path),
        base=_base(metadata, record),
        triggers=_triggers(metadata, record),
        tags=_tags(metadata),
        training={word: _shown(metadata[key]) for key, word in _WORDS.items() if _says(metadata.get(key))},
        made_by=_made_by(record),
        other_metadata=tuple(sorted(key for key in metadata if not _is_shown(key))),
    )


def _parts(
    path: Path, infos: Mapping[str, TensorInfo], strength: Strength
) -> tuple[tuple[PartFacts, ...], tuple[str, ...], list[str]]:
    """The parts, keys that are of no kind that is read, and faults."""
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    not_read: list[str] = []
    for key in infos:
        split = split_key(key)
        if split is None:
            not_read.append(key)
        else:
            grouped.setdefault(part_and_name(split[0]), {})[split[1]] = key
    alphas = _alphas(path, [keys["alpha"] for keys in grouped.values() if "alpha" in keys])
    found: dict[str, list[tuple[str, int | None, float | None]]] = {}
    faults: dict[str, int] = {}
    for (part, name), keys in grouped.items():
        try:
            kind = kind_of(keys, path.name, f"{part} {name}")
            rank = rank_of({role: infos[key].shape for role, key in keys.items()})
            factor = _factor(alphas.get(keys.get("alpha", "")), strength, part, name, rank)
        except UserError as error:
            faults[_sentence(error)] = faults.get(_sentence(error), 0) + 1
            continue
        dora = " with DoRA" if {"dora_scale", "magnitude"} & keys.keys() else ""
        found.setdefault(part, []).append((kind.name + dora, rank, factor))
    parts = tuple(
        PartFacts(
            name=_PARTS.get(part, part) or "all",
            layers=len(layers),
            kinds=dict(Counter(kind for kind, _, _ in layers).most_common()),
            ranks=dict(sorted(Counter(rank for _, rank, _ in layers if rank is not None).items())),
            factors=dict(Counter(factor for _, _, factor in layers).most_common()),
        )
        for part, layers in found.items()
    )
    parts = tuple(sorted(parts, key=lambda part: (part.name != "denoiser", part.name)))
    many = [text if count == 1 else f"{text} ({count:,} layers alike)" for text, count in faults.items()]
    return parts, tuple(not_read), many[:5] + ([f"{len(many) - 5:,} faults more"] if len(many) > 5 else [])


def part_and_name(stem: str) -> tuple[str, str]:
    """The first word of a stem, which names the part, and the rest; an empty part where the stem begins with the layer."""
    for pattern in (KOHYA, DIFFUSERS):
        if match := pattern.fullmatch(stem):
            return match[1], match[2]
    return "", stem.removeprefix(_PEFT_PREFIX)


def rank_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The rank that a layer's tensors have, by their roles; None where they have none."""
    for role in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if shapes.get(role):
            return shapes[role][0]
    return None


def _factor(alpha: float | None, strength: Strength, part: str, name: str, rank: int | None) -> float | None:
    if alpha is not None:
        return round(alpha / rank, 4) if rank else 1.0
    factor = strength.factor(part, (name, name.removeprefix("text_model.")), rank)
    return None if factor is None else round(factor, 4)


def _alphas(path: Path, keys: list[str]) -> dict[str, float]:
    """The numbers in `.alpha` tensors; those of several numbers are left out."""
    from safetensors import safe_open

    with library_errors(path.name, path), safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in keys}
    return {key: float(tensor.reshape(())) for key, tensor in tensors.items() if tensor.numel() == 1}


def non_finite(path: Path) -> tuple[str, ...]:
    """Names of the tensors of a file that hold NaN or infinity; one tensor is in memory at a time."""
    from safetensors import safe_open

    found: list[str] = []
    with library_errors(path.name, path), safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(key)
            if tensor.is_floating_point() and not is_finite(tensor):
                found.append(key)
    return tuple(found)


def _key_format(infos: Mapping[str, TensorInfo]) -> str:
    known = {"kohya": "kohya (sd-scripts, A1111, ComfyUI)", "diffusers": "diffusers"}
    name = key_format_of(infos)
    if name in known:
        return known[name]
    if infos and all(key.startswith(_PEFT_PREFIX) for key in infos):
        return "peft"
    if infos and all(key.startswith("lycoris_") or ".hada_" in key or ".lokr_" in key for key in infos):
        return "LyCORIS"
    return "another, or several"


def _sentence(error: UserError) -> str:
    return " ".join(str(error).split())


def _says(value: str | None) -> bool:
    return value is not None and value.strip() not in {"", "None", "null", "{}", "[]"}


def _shown(value: str) -> str:
    """A text of a file for the terminal: printable, in one line, at most 80 letters."""
    return str(shown(value))[1:-1]


def _base(metadata: Mapping[str, str], record: Mapping[str, Any]) -> str:
    base = record.get("base")
    source = base.get("source") if isinstance(base, dict) else None
    named = base_named(metadata)
    mine = f"{_shown(source)} (recorded by loraloom)" if isinstance(source, str) and source else ""
    return ", ".join(part for part in (mine, named) if part)


def _triggers(metadata: Mapping[str, str], record: Mapping[str, Any]) -> tuple[str, ...]:
    said = [record.get("trigger"), metadata.get("modelspec.trigger_phrase"), metadata.get("ss_trigger_words")]
    return tuple(dict.fromkeys(_shown(one) for one in said if isinstance(one, str) and _says(one)))


def _tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """`ss_tag_frequency` of sd-scripts: folder -> tag -> count."""
    counts: Counter[str] = Counter()
    try:
        folders = parse_json(metadata.get("ss_tag_frequency", "{}"), "ss_tag_frequency")
    except UserError:
        return {}
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and 0 < count < 1 << 40:
                counts[_shown(tag.strip())] += count
    return dict(counts.most_common(_MAX_TAGS))


def _made_by(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The steps of a record in words."""
    steps = record.get("made_by")
    lines: list[str] = []
    for step in steps if isinstance(steps, list) else ():
        if not isinstance(step, dict):
            continue
        inputs = step.get("inputs")
        files = [one for one in inputs if isinstance(one, dict)] if isinstance(inputs, list) else []
        names = [f"{_shown(str(one.get('file')))} (sha256 {_shown(str(one.get('sha256')))[:12]})" for one in files]
        error = step.get("error")
        lost = f", error {error:.2%}" if isinstance(error, float) and 0 <= error <= 10 else ""
        settings = _shown(json.dumps(step.get("settings"), sort_keys=True))
        lines.append(f"{_shown(str(step.get('tool')))} of {' and '.join(names) or 'no file'}, {settings}{lost}")
    return tuple(lines)


def _is_shown(key: str) -> bool:
    return key in _WORDS or key in {
        KEY,
        METADATA_KEY,
        "format",
        "ss_tag_frequency",
        "ss_base_model_version",
        "ss_sd_model_name",
        "modelspec.architecture",
        "modelspec.trigger_phrase",
        "ss_trigger_words",
        "ss_network_dim",
        "ss_network_alpha",
        "ss_network_module",
        "ss_output_name",
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.hash_sha256",
        "modelspec.sai_model_spec",
        "modelspec.title",
    }
