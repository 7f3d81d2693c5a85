"""The layers of adapter files as the tools work on them: with a model's names, or without a model with the file's own.

In: an adapter file, and a model of which only the configs are read, or none. Out: `ToolInput`: plain LoRA layers by place,
and updates of other kinds. Without a model a place is (first word of the key, rest): (`lora_unet`,
`down_blocks_0_…_to_k`) or (`unet`, `down_blocks.0.….to_k`), and only files in one of these two key formats are read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loraloom.lora.blend import Scale, parse_scale
from loraloom.lora.deltas import Delta
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.kinds import base_named, kind_of, refuse, split_key
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import Place
from loraloom.lora.names import weight_shapes
from loraloom.lora.scales import check_scale, scale_of
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import is_finite, read_tensors
from loraloom.utils.untrusted import is_there, shown

KOHYA = re.compile(r"(lora_[a-z]+\d?|lycoris)_(.+)", re.DOTALL)
DIFFUSERS = re.compile(r"(unet|transformer|prior|text_encoder(?:_\d)?)\.(.+)", re.DOTALL)
_ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight", ".alpha"),
    "diffusers": (".lora_A.weight", ".lora_B.weight"),
}
_OF_DORA = (
    "merge it into a base with `loraloom lora merge --into-base`, then extract a LoRA with `loraloom lora extract`"
)
_ADD_MODEL = "name the base with --model; of it only the configs are read"


class ModelRequiredError(UserError):
    """A file that cannot be read by its own names; with a model it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInput:
    """What an adapter file does, by place.

    Attributes:
        file: The file.
        layers: Plain LoRA layers.
        deltas: Updates of other kinds; empty without a model.
        key_format: `diffusers` or `kohya` where all keys are of it, else `other`.
        notes: Sentences for the user: what the file does not state.
        scale: What the user multiplies it by; numbers by block only with a model, whose names blocks have.
    """

    file: AdapterFile
    layers: Mapping[Place, LoraLayer]
    deltas: Mapping[Place, Delta]
    key_format: str
    notes: tuple[str, ...] = ()
    scale: Scale = 1.0

    def scale_at(self, place: Place) -> float:
        """The scale of one layer."""
        return scale_of(self.scale, *place)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.path.name

    def plain(self, purpose: str) -> Mapping[Place, LoraLayer]:
        """The layers of a plain LoRA.

        Raises:
            UserError: It has updates of another kind.
        """
        if self.deltas:
            kinds = sorted({_title(delta) for delta in self.deltas.values()})
            fix = "`loraloom lora resize --rank N --model BASE` makes a plain LoRA of it, with the error stated"
            raise UserError(
                f"{self.name} is not a plain LoRA: it cannot be {purpose}",
                got=f"{len(self.deltas):,} layers of {', '.join(kinds)}",
                fix=_OF_DORA if "DoRA" in kinds else fix,
            )
        return self.layers


def parse_place(text: str) -> tuple[Path, Scale]:
    """`PLACE` or `PLACE:SCALE` of a tool that takes several LoRAs; the scale as in `lora.blend.parse_scale`.

    Raises:
        UserError: The scale is no number from -100 to 100, and no numbers by block.
    """
    place, colon, number = text.rpartition(":")
    # The colon of a Windows drive, or of a name that is there, begins no scale.
    if not colon or is_there(Path(text)) or "/" in number or "\\" in number:
        return Path(text), 1.0
    scale = parse_scale(number, text)
    return Path(place), scale


def read_input(place: Path, model: DiffusionModel | None, scale: Scale = 1.0) -> ToolInput:
    """Read an adapter file; without a model only plain LoRAs in the key formats of diffusers and kohya.

    Raises:
        UserError: None there, damaged, of another kind or model, half a pair.
    """
    return input_of(read_adapter(place), model, scale)


def input_of(file: AdapterFile, model: DiffusionModel | None, scale: Scale = 1.0) -> ToolInput:
    """`read_input` of a file whose header is read.

    Raises:
        UserError: As `read_input`.
    """
    if model is None:
        if isinstance(scale, Mapping):
            raise ModelRequiredError(
                f"{file.path.name} has a scale by block, and blocks have the names of a model", fix=_ADD_MODEL
            )
        return _without_model(file, scale)
    updates = file.updates(model)
    check_scale(file.path.name, scale, [(one.part, one.module) for one in (*updates.layers, *updates.deltas)])
    return ToolInput(
        file=file,
        layers={(layer.part, layer.module): layer for layer in updates.layers},
        deltas={(delta.part, delta.module): delta for delta in updates.deltas},
        key_format=key_format_of(file.infos),
        notes=updates.notes,
        scale=scale,
    )


def key_format_of(keys: Sequence[str] | Mapping[str, object]) -> str:
    """`kohya` or `diffusers` where all keys are of it, else `other`."""
    for name, pattern in (("kohya", KOHYA), ("diffusers", DIFFUSERS)):
        if keys and all(key.endswith(_ENDINGS[name]) and pattern.fullmatch(key) for key in keys):
            return name
    return "other"


def change_of(update: Delta, model: DiffusionModel) -> Tensor:
    """The change of the layer's weight at scale 1, without the base's own weight.

    Raises:
        UserError: It depends on the base's weight (DoRA), or is not finite.
    """
    if update.requires_base:
        raise UserError(
            "a DoRA's change depends on the base's own weights",
            got=update.module,
            fix=_OF_DORA,
        )
    return update.change(torch.zeros(weight_shapes(model, update.part)[update.module]), 1.0)


def _title(delta: Delta) -> str:
    return "DoRA" if delta.requires_base else {"diff": "full difference"}.get(delta.kind, delta.kind)


def _without_model(file: AdapterFile, scale: float) -> ToolInput:
    """The layers by the file's own names."""
    where = file.path.name
    split = {key: split_key(key) for key in file.infos}
    if rest := [key for key, found in split.items() if found is None]:
        raise refuse(rest, len(split), where, file.metadata, "a LoRA", None)
    key_format = key_format_of(file.infos)
    grouped: dict[str, dict[str, str]] = {}
    for key, found in split.items():
        assert found is not None
        grouped.setdefault(found[0], {})[found[1]] = key
    kinds = {stem: kind_of(keys, where, stem) for stem, keys in grouped.items()}
    others = sorted({kind.name for kind in kinds.values() if kind.formula != "lora"})
    if any({"dora_scale", "magnitude"} & keys.keys() for keys in grouped.values()):
        others.append("DoRA")
    if others or key_format == "other":
        what = f"holds {', '.join(others)}" if others else "names its layers neither as diffusers nor as kohya does"
        base = base_named(file.metadata)
        fix = _ADD_MODEL + (f"; its metadata names {base}" if base else "")
        raise ModelRequiredError(f"{where} {what}", fix=fix)
    tensors, _ = read_tensors(file.path)
    layers: dict[Place, LoraLayer] = {}
    unstated = 0
    for stem, keys in grouped.items():
        match = (KOHYA if key_format == "kohya" else DIFFUSERS).fullmatch(stem)
        assert match is not None, "the key format was checked"
        place = (match[1], match[2])
        down, up = (_float(tensors[keys[role]], keys[role], where) for role in ("down", "up"))
        if down.flatten(1).shape[0] != up.flatten(1).shape[1]:
            got = f"down {list(down.shape)}, up {list(up.shape)}"
            raise UserError(f"{where}: the two halves of {shown(stem)} do not fit", got=got, fix="get another file")
        rank = int(down.shape[0])
        alpha, stated = _alpha(file, tensors, keys, place, rank)
        unstated += not stated
        layers[place] = LoraLayer(part=place[0], module=place[1], down=down, up=up, alpha=alpha)
    notes = (
        (f"note: {where}: no alpha in the file for {unstated:,} of {len(layers):,} layers: alpha = rank",)
        if unstated
        else ()
    )
    return ToolInput(file=file, layers=layers, deltas={}, key_format=key_format, notes=notes, scale=scale)


def _alpha(
    file: AdapterFile, tensors: Mapping[str, Tensor], keys: Mapping[str, str], place: Place, rank: int
) -> tuple[float, bool]:
    """The alpha of a layer, and whether the file states it."""
    if "alpha" in keys:
        alpha = float(tensors[keys["alpha"]].reshape(()))
        if not 0 < alpha <= 1e9:
            what = f"{file.path.name}: {shown(keys['alpha'])}"
            raise UserError(what, got=alpha, expected="a positive number", fix="ask its author")
        return alpha, True
    factor = file.strength.factor(place[0], (place[1], place[1].removeprefix("text_model.")), rank)
    return (factor * rank, True) if factor is not None else (float(rank), False)


def _float(tensor: Tensor, key: str, where: str) -> Tensor:
    wide = tensor.to(torch.float32)
    if not is_finite(wide) or float(wide.abs().max()) > 1e15:
        raise UserError(f"{where}: {shown(key)} is beyond the range of float32", fix="the file is damaged: get another")
    return wide
