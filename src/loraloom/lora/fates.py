"""What becomes of every key of an adapter file: used in which layer and as what, or unused and why.

In: the header of a file, and a model of which only the configs are read, or none. Out: a `Fate` for each key. A file is used
as a whole or refused: one unused key is enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loraloom.lora.deltas import FORMULAS
from loraloom.lora.facts import non_finite, part_and_name
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.kinds import kind_of, refuse, split_key
from loraloom.lora.names import base_modules, stems_of, weight_shapes
from loraloom.lora.tool_input import ModelRequiredError, input_of
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

_ROLES = {
    "down": "A",
    "up": "B",
    "mid": "core",
    "alpha": "strength",
    "dora_scale": "DoRA norms",
    "magnitude": "DoRA norms",
    "diff": "full difference",
    "diff_b": "difference of the bias",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of one tensor.

    Attributes:
        key: Its name in the file.
        used: Whether it is used.
        where: Part and layer where it is used, empty where it is not.
        why: What it is there, or why it is not used.
    """

    key: str
    used: bool
    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file and the fates of its keys.

    Attributes:
        file: The file.
        fates: One for every key, in the order of the file.
        error: What `generate` says of it; None where it is read.
        notes: What the file does not state.
        unchanged: Layers of the same parts of the model that are not changed; 0 without a model.
    """

    file: AdapterFile
    fates: tuple[Fate, ...]
    error: UserError | None
    notes: tuple[str, ...]
    unchanged: int = 0


def check_file(place: Path, model: DiffusionModel | None) -> Checked:
    """Say what becomes of every key.

    Raises:
        UserError: There is no file, it is damaged, or its metadata is not understood.
    """
    file = read_adapter(place)
    fates = key_fates(file, model)
    error: UserError | None = None
    notes: tuple[str, ...] = ()
    unchanged = 0
    try:
        found = input_of(file, model)
        notes = found.notes
        if model is not None:
            changed = {*found.layers, *found.deltas}
            parts = {part for part, _ in changed}
            unchanged = sum(len(base_modules(model.modules.skeleton(part))) for part in parts) - len(changed)
    except ModelRequiredError:  # no fault of the file
        if any(not fate.used for fate in fates):
            error = UserError(f"{file.path.name} holds tensors that are not used")
        elif broken := non_finite(file.path):
            error = UserError(f"{file.path.name}: {len(broken):,} tensors hold NaN or infinity", got=broken[0])
    except UserError as refused:
        error = refused
    return Checked(file=file, fates=fates, error=error, notes=notes, unchanged=unchanged)


def key_fates(file: AdapterFile, model: DiffusionModel | None) -> tuple[Fate, ...]:
    """The fate of every key by names and shapes alone."""
    places = _places(model) if model is not None else {}
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    fates: dict[str, Fate] = {}
    for key in file.infos:
        split = split_key(key)
        if split is None:
            why = refuse([key], 1, file.path.name, {}, "a LoRA", None).what.removeprefix(f"{file.path.name} ")
            why = "of a kind that is not known" if why.startswith("does not fit") else f"the file {why}"
            fates[key] = Fate(key=key, used=False, where="", why=why)
            continue
        place = part_and_name(split[0]) if model is None else places.get(split[0])
        if place is None:
            fates[key] = Fate(key=key, used=False, where="", why=f"this model has no layer {split[0]}")
            continue
        roles = grouped.setdefault(place, {})
        if split[1] in roles:
            fates[key] = Fate(key=key, used=False, where="", why=f"the layer has {roles[split[1]]} already")
            continue
        roles[split[1]] = key
    shapes = {part: weight_shapes(model, part) for part in {part for part, _ in grouped}} if model is not None else {}
    for place, keys in grouped.items():
        problem = _problem(file, place, keys, shapes.get(place[0], {}).get(place[1]))
        if model is not None and not problem and (why := model.info.part(place[0]).why_excluded(place[1])):
            problem = f"the layer cannot carry LoRA: {why}"
        for role, key in keys.items():
            where = "" if problem else f"{place[0]} {place[1]}".strip()
            fates[key] = Fate(key=key, used=not problem, where=where, why=problem or _ROLES.get(role, role))
    return tuple(fates[key] for key in file.infos)


def _problem(file: AdapterFile, place: tuple[str, str], keys: Mapping[str, str], weight: tuple[int, ...] | None) -> str:
    """Why the tensors of a layer are not used; empty where they are."""
    try:
        kind = kind_of(keys, file.path.name, place[1])
    except UserError as error:
        return f"{error.what.removeprefix(f'{file.path.name} ')}: {error.expected or error.got}"
    shapes = {role: file.infos[key].shape for role, key in keys.items()}
    if weight is not None and not FORMULAS[kind.formula].fits(shapes, weight):
        found = ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items() if role != "alpha")
        return f"{found} does not fit the layer's weight {list(weight)}"
    return ""


def _places(model: DiffusionModel) -> dict[str, tuple[str, str]]:
    """Every stem that means a layer of the model."""
    found: dict[str, tuple[str, str]] = {}
    for part in model.info.parts:
        if part.lora_targets:
            for stem, name in stems_of(model, part.name).items():
                found.setdefault(stem, (part.name, name))
    return found
