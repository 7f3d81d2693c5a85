"""Adapter files as other programs spell them, read and written without a library's conversions.

In: tensors by key. Out: `Layers`: part -> module name -> (A, B, alpha), or the other way round. Two spellings:

    exchange   `unet.<module>.lora_A.weight`             diffusers, peft, and our own adapter.safetensors
    kohya      `lora_unet_<module>.lora_down.weight`     sd-scripts, A1111, ComfyUI; with `.alpha`

Written files have alpha / rank baked into B and alpha = rank, because readers disagree about who keeps the scale.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from loraloom.contracts import DiffusionModel, LoraPreset
from loraloom.errors import UserError
from loraloom.lora.attach import match_modules

Layers = dict[str, dict[str, tuple[Tensor, Tensor, float]]]

_EVERY_LAYER = LoraPreset(r".*", ("Linear", "Conv2d"))
_PARTS = ("denoiser", "text_encoder")


def baked(layers: Layers) -> Layers:
    """The same updates with alpha = rank: (A, B alpha / rank, rank)."""
    return {
        part: {
            name: (down, up * (alpha / down.shape[0]), float(down.shape[0]))
            for name, (down, up, alpha) in modules.items()
        }
        for part, modules in layers.items()
    }


def to_exchange(model: DiffusionModel, layers: Layers, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keys of diffusers and peft; the layers must be `baked`."""
    tensors: dict[str, Tensor] = {}
    for part, modules in layers.items():
        for name, (down, up, _) in modules.items():
            stem = f"{model.component(part)}.{model.exchange_name(part, name)}"
            tensors[f"{stem}.lora_A.weight"] = down.to(dtype)
            tensors[f"{stem}.lora_B.weight"] = up.to(dtype)
    return tensors


def to_kohya(model: DiffusionModel, layers: Layers, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keys of sd-scripts, with `.alpha` = rank; the layers must be `baked`."""
    tensors: dict[str, Tensor] = {}
    for part, modules in layers.items():
        for name, (down, up, alpha) in modules.items():
            stem = _kohya_stem(model, part, name)
            tensors[f"{stem}.lora_down.weight"] = down.to(dtype)
            tensors[f"{stem}.lora_up.weight"] = up.to(dtype)
            tensors[f"{stem}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


def from_tensors(model: DiffusionModel, tensors: Mapping[str, Tensor], alpha: float | None, where: str) -> Layers:
    """Layers of a file in either spelling; every key must find its module.

    Args:
        model: Gives the module names; its parts are loaded.
        tensors: The file's tensors.
        alpha: Scale of an exchange file that keeps it in its metadata; None means alpha = rank.
        where: The file's name, for errors.

    Raises:
        UserError: Unknown spelling, a key without a module, or half a pair.
    """
    if any(".lora_down." in key for key in tensors):
        return _from_kohya(model, tensors, where)
    layers: Layers = {}
    used: set[str] = set()
    for part in _PARTS:
        prefix = model.component(part) + "."
        if not any(key.startswith(prefix) for key in tensors):
            continue
        for name in match_modules(model.module(part), _EVERY_LAYER):
            keys = [
                key
                for stem in {prefix + model.exchange_name(part, name), prefix + name}
                for key in (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
                if key in tensors
            ]
            if len(keys) == 2:
                down, up = (tensors[key].float() for key in sorted(keys))
                layers.setdefault(part, {})[name] = (down, up, alpha if alpha is not None else float(down.shape[0]))
                used.update(keys)
    _refuse_rest(tensors.keys() - used, layers, where)
    return layers


def _from_kohya(model: DiffusionModel, tensors: Mapping[str, Tensor], where: str) -> Layers:
    layers: Layers = {}
    used: set[str] = set()
    for part in _PARTS:
        if not any(key.startswith(model.kohya_prefix(part) + "_") for key in tensors):
            continue
        for name in match_modules(model.module(part), _EVERY_LAYER):
            stem = _kohya_stem(model, part, name)
            down, up = tensors.get(f"{stem}.lora_down.weight"), tensors.get(f"{stem}.lora_up.weight")
            if down is None or up is None:
                continue
            alpha = tensors.get(f"{stem}.alpha")
            scale = float(alpha) if alpha is not None else float(down.shape[0])
            layers.setdefault(part, {})[name] = (down.float(), up.float(), scale)
            used |= {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"}
    _refuse_rest(tensors.keys() - used, layers, where)
    return layers


def _refuse_rest(rest: "set[str]", layers: Layers, where: str) -> None:
    if rest or not layers:
        example = min(rest) if rest else "no LoRA keys at all"
        dora = any("dora" in key or "magnitude" in key for key in rest)
        raise UserError(
            f"{where} does not fit this model",
            got=f"{len(rest)} tensors without a place, such as {example}",
            fix="DoRA adapters are not read" if dora else "use the base model that the adapter was trained on",
        )


def _kohya_stem(model: DiffusionModel, part: str, name: str) -> str:
    return f"{model.kohya_prefix(part)}_{model.exchange_name(part, name).replace('.', '_')}"
