"""From an adapter file of any kind that is read to updates of a model's layers.

In: a checked header, the tensors, what is stated about the strength, and a model. Out: `Updates`: a `LoraLayer` for each
layer of a plain LoRA, a `Delta` for each layer of another kind. Keys, kinds and shapes are checked on the header, before a
tensor is read. Names and shapes of the model come from its configs: none of its weights are read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loraloom.lora.deltas import FORMULAS, Delta
from loraloom.lora.fusing import split_layers
from loraloom.lora.kinds import ReadKind, base_named, kind_of, refuse, split_key
from loraloom.lora.layers import LoraLayer
from loraloom.lora.names import fused_layers, stems_of, weight_shapes
from loraloom.lora.strength import Strength
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import TensorInfo, is_finite
from loraloom.utils.untrusted import shown

MAX_RANK = 1 << 15
_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}
_VECTORS = {"magnitude", "dora_scale", "diff_b"}
_OF_NORMS = {"diff"}
"""Roles that are vectors for norm layers too: such layers are refused by name in `locate`, not as damage here."""
_FACTORS = ("down", "mid", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
"""Roles whose first dimension is the rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """What a file does to a model.

    Attributes:
        layers: The updates of plain LoRA.
        deltas: The updates of every other kind.
        notes: Sentences for the user: what the file does not state.
    """

    layers: tuple[LoraLayer, ...] = ()
    deltas: tuple[Delta, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The tensors of one layer: key by role, and where they belong."""

    part: str
    name: str
    stem: str
    kind: ReadKind
    keys: Mapping[str, str]


def check_tensors(infos: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse weights that are no weights: integers, empty tensors, an alpha of several numbers, a rank beyond reason.

    Raises:
        UserError: Names the first tensor. Keys of kinds that are not read are left to `locate`.
    """
    for key, info in infos.items():
        split = split_key(key)
        if split is None:
            continue
        role, shape = split[1], info.shape
        fix = "the file is damaged or made by a broken program: get another"
        if role == "alpha":
            if info.dtype not in FLOATS | _INTEGERS or _numel(shape) != 1:
                got = f"{info.dtype} of shape {list(shape)}"
                raise UserError(f"{where}: {shown(key)} is not one number", got=got, fix=fix)
            continue
        if info.dtype not in FLOATS:
            raise UserError(f"{where}: {shown(key)} has no weights in it", got=info.dtype, expected="floats", fix=fix)
        if _numel(shape) == 0 or len(shape) < (1 if role in _VECTORS | _OF_NORMS else 2):
            expected = "a matrix or a kernel that is not empty"
            raise UserError(f"{where}: {shown(key)} has no such shape", got=list(shape), expected=expected, fix=fix)
        if role in _FACTORS and shape[0] > MAX_RANK:
            expected = f"at most {MAX_RANK:,}"
            raise UserError(f"{where}: {shown(key)} has a rank beyond reason", got=shape[0], expected=expected, fix=fix)


def locate(
    model: DiffusionModel, infos: Mapping[str, TensorInfo], where: str, metadata: Mapping[str, str]
) -> list[Place]:
    """Where each tensor of a file belongs. Every key finds its module, or the file is refused.

    Raises:
        UserError: A kind that is not read, another base, half a pair, or shapes of another model.
    """
    split = {key: split_key(key) for key in infos}
    stems = {found[0] for found in split.values() if found}
    modules = _find_modules(model, stems)
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    stem_of: dict[tuple[str, str], str] = {}
    rest: list[str] = []
    for key, found in split.items():
        place = modules.get(found[0]) if found else None
        if found is None or place is None:
            rest.append(key)
            continue
        roles = grouped.setdefault(place, {})
        stem_of.setdefault(place, found[0])
        if found[1] in roles:
            twice = f"{shown(roles[found[1]])} and {shown(key)}"
            raise UserError(f"{where} holds a layer twice", got=twice, fix="get a file in one key format")
        roles[found[1]] = key
    if rest or not grouped:
        raise refuse(rest, len(infos), where, metadata, model.lora_format.architecture, model.info.family)
    places: list[Place] = []
    parts = {part for part, _ in grouped}
    shapes = {part: weight_shapes(model, part) for part in parts}
    fused = {part: fused_layers(model, part) for part in parts}
    for (part, name), keys in grouped.items():
        stem = stem_of[part, name]
        kind = kind_of(keys, where, stem)
        places.append(Place(part=part, name=name, stem=stem, kind=kind, keys=keys))
        _check_shapes(places[-1], infos, shapes[part][name], where, metadata, model.lora_format.architecture)
        if name in fused[part] and (kind.formula != "lora" or _VECTORS & keys.keys()):
            raise UserError(
                f"{where}: {shown(stem)} holds several layers of this model",
                got=kind.name,
                expected="a plain LoRA, which can be taken apart",
                fix="get a file whose layers are apart",
            )
    return places


def read_updates(
    model: DiffusionModel,
    infos: Mapping[str, TensorInfo],
    load: Callable[[], Mapping[str, Tensor]],
    strength: Strength,
    metadata: Mapping[str, str],
) -> Updates:
    """The updates of a file; `load` reads its tensors and is called when all keys and shapes fit.

    Raises:
        UserError: As `locate`; or an alpha that is not a positive number, or weights beyond the range of float32.
    """
    where = strength.where
    places = locate(model, infos, where, metadata)
    tensors = load()
    weights = {part: weight_shapes(model, part) for part in {place.part for place in places}}
    layers: list[LoraLayer] = []
    deltas: list[Delta] = []
    unstated: list[str] = []  # parts, one for each layer
    stated: set[str] = set()
    for place in places:
        shapes = {role: infos[key].shape for role, key in place.keys.items()}
        rank = FORMULAS[place.kind.formula].rank(shapes)
        factor = _factor(model, place, tensors, strength, rank)
        if factor is not None:
            stated.add(place.part)
        else:
            unstated.append(place.part)
        values = {role: _float(tensors[key], key, where) for role, key in place.keys.items() if role != "alpha"}
        scale = 1.0 if factor is None else factor
        _check_size(values, scale, place, where)
        magnitude = _magnitude(model, place, values, strength, weights[place.part][place.name])
        if place.kind.formula == "lora" and magnitude is None:
            down, up = values["down"], values["up"]
            alpha = scale * down.shape[0]
            layers.append(LoraLayer(part=place.part, module=place.name, down=down, up=up, alpha=alpha))
            continue
        bias = values.pop("diff_b", None)
        deltas.append(
            Delta(
                part=place.part,
                module=place.name,
                kind=place.kind.formula,
                tensors=values,
                factor=scale,
                magnitude=magnitude,
                bias=bias,
            )
        )
    layers = _allowed(model, split_layers(model, layers), deltas, where)
    _check_unique([*layers, *deltas], where)
    notes = tuple(_notes(model, metadata, unstated, stated, len(places), where))
    return Updates(layers=tuple(layers), deltas=tuple(deltas), notes=notes)


def _allowed(
    model: DiffusionModel, layers: Sequence[LoraLayer], deltas: Sequence[Delta], where: str
) -> list[LoraLayer]:
    """The layers without those that cannot carry LoRA, which may be there as zeros.

    Raises:
        UserError: One of them is not zero.
    """
    kept: list[LoraLayer] = []
    for update in (*layers, *deltas):
        why = model.info.part(update.part).why_excluded(update.module)
        if why is None:
            kept += [update] if isinstance(update, LoraLayer) else []
        elif not isinstance(update, LoraLayer) or bool(update.up.any()):
            raise UserError(
                f"{where} changes {update.module}, which cannot be loaded: {why}",
                fix="ask its author for a file without this layer, or merge it in the program that made it",
            )
    return kept


def _check_unique(updates: Sequence[LoraLayer | Delta], where: str) -> None:
    """Refuse a layer that has an update of its own beside the one of a fused layer that holds it."""
    seen: set[tuple[str, str]] = set()
    for update in updates:
        place = (update.part, update.module)
        if place in seen:
            got = f"{update.module} alone and as a part of a fused layer"
            raise UserError(f"{where} holds a layer twice", got=got, fix="get a file in one key format")
        seen.add(place)


def _find_modules(model: DiffusionModel, stems: set[str]) -> dict[str, tuple[str, str]]:
    """Stem -> (part, module). A part is looked at only when an earlier one lacks a stem."""
    found: dict[str, tuple[str, str]] = {}
    for part in [each.name for each in model.info.parts if each.lora_targets]:
        if stems <= found.keys():
            break
        for stem, name in stems_of(model, part).items():
            if stem in stems:
                found.setdefault(stem, (part, name))
    return found


def _check_shapes(
    place: Place,
    infos: Mapping[str, TensorInfo],
    weight: tuple[int, ...],
    where: str,
    metadata: Mapping[str, str],
    architecture: str,
) -> None:
    shapes = {role: infos[key].shape for role, key in place.keys.items()}
    fits = FORMULAS[place.kind.formula].fits(shapes, weight)
    fits = fits and ("diff_b" not in shapes or _numel(shapes["diff_b"]) == weight[0])
    fits = fits and all(
        _norm_shape(role, shapes[role], weight) for role in ("magnitude", "dora_scale") if role in shapes
    )
    if fits:
        return
    base = base_named(metadata)
    fix = f"its metadata names {base}" if base else "use the base model that the adapter was trained on"
    if (
        place.stem.endswith(("attn2.to_k", "attn2_to_k", "attn2.to_v", "attn2_to_v"))
        and len(shapes.get("down", ())) > 1
    ):
        width = shapes["down"][1]
        whose = f" ({_WIDTHS[width]})" if width in _WIDTHS else ""
        fix += f"; it was trained on a model with text embeddings of width {width}{whose}, this one's have {weight[1]}"
    found = ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items() if role != "alpha")
    raise UserError(
        f"{where} does not fit this model at {shown(place.stem)}",
        got=found,
        expected=f"a {place.kind.name} for {list(weight)}, as {architecture} has it",
        fix=fix,
    )


def _norm_shape(role: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that DoRA's norms take beside a weight (out, in, ...), or None when they do not fit it.

    LyCORIS' `dora_scale` is (out, 1, ...) or, for norms of the inputs, (1, in, ...); peft's vector is always of outputs,
    (out,) for a linear layer and (1, out, 1, 1) for a convolution.
    """
    ones = (1,) * (len(weight) - 2)
    if shape in {(weight[0],), (weight[0], 1, *ones), (weight[0], 1)}:
        return (weight[0], 1, *ones)
    if role == "magnitude" and shape == (1, weight[0], *ones):
        return (weight[0], 1, *ones)
    if role == "dora_scale" and shape == (1, weight[1], *ones):
        return (1, weight[1], *ones)
    return None


def _factor(
    model: DiffusionModel, place: Place, tensors: Mapping[str, Tensor], strength: Strength, rank: int | None
) -> float | None:
    """What a layer's update is multiplied by; None where nothing is stated."""
    if place.kind.formula == "diff":
        return 1.0
    component = model.lora_format.component(place.part)
    if "alpha" not in place.keys:
        form = model.lora_format
        names = (form.diffusers_name(place.part, place.name), form.kohya_name(place.part, place.name), place.name)
        factor = strength.factor(component, names, rank)
        return factor if factor is not None or rank is not None else 1.0
    key = place.keys["alpha"]
    alpha = float(tensors[key].reshape(()))
    if not 0 < alpha <= 1e9:
        raise UserError(
            f"{strength.where}: {shown(key)}", got=alpha, expected="a positive number", fix="ask its author"
        )
    return alpha / rank if rank is not None else 1.0


def _magnitude(
    model: DiffusionModel, place: Place, values: dict[str, Tensor], strength: Strength, weight: tuple[int, ...]
) -> Tensor | None:
    """DoRA's norms, taken out of `values`."""
    given = [role for role in ("magnitude", "dora_scale") if role in values]
    stated = strength.stated(model.lora_format.component(place.part))
    if not given:
        if stated and stated.use_dora:
            raise UserError(
                f"{strength.where} states DoRA and holds no norms",
                got=str(shown(place.stem)),
                fix="the file is not whole: download it again, or ask its author",
            )
        return None
    if len(given) == 2:
        raise UserError(f"{strength.where} holds DoRA norms twice", got=str(shown(place.stem)), fix="ask its author")
    shape = _norm_shape(given[0], tuple(values[given[0]].shape), weight)
    assert shape is not None, "checked on the header"
    return values.pop(given[0]).reshape(shape)


def _float(tensor: Tensor, key: str, where: str) -> Tensor:
    wide = tensor.to(torch.float32)
    if not is_finite(wide):
        raise UserError(f"{where}: {shown(key)} is beyond the range of float32", fix="ask its author for another file")
    return wide


def _check_size(values: Mapping[str, Tensor], scale: float, place: Place, where: str) -> None:
    """Refuse weights whose product may overflow: a model would generate noise or nothing, without a message."""
    size = scale
    for role, value in values.items():
        if role not in _VECTORS:
            size *= float(value.abs().max()) * max(value.shape)
    if not size < 1e30:
        raise UserError(
            f"{where}: the weights of {shown(place.stem)} are too large to multiply",
            got=f"up to {size:.0e}",
            expected="below 1e30",
            fix="the file is damaged: get another",
        )


def _notes(
    model: DiffusionModel, metadata: Mapping[str, str], unstated: list[str], stated: set[str], total: int, where: str
) -> Iterator[str]:
    if unstated:
        some = "" if len(unstated) == total else f" for {len(unstated):,} of {total:,} layers"
        if some and not set(unstated) & stated:
            some += " (the " + " and the ".join(part.replace("_", " ") for part in dict.fromkeys(unstated)) + ")"
        yield f"note: {where}: no alpha in the file{some}: alpha = rank; `--adapter-weight` changes the strength"
    version, architecture = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    other = version.startswith("sd") and not version.startswith(model.lora_format.kohya_version)
    if other or (architecture and not architecture.startswith(model.lora_format.architecture)):
        yield f"note: {where} names another kind of base than {model.lora_format.architecture}: {base_named(metadata)}"


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
