"""Names of modules in adapter files, in every key format that is in use, mapped to the modules of a model.

In: a model and one of its parts, without its weights: names and shapes are those of `Modules.skeleton`. Out: stem of a key
(all before the weight's own name) -> module name:

    unet.down_blocks.0.….to_k          diffusers and peft in diffusers; also without the first word (old attention processors)
    base_model.model.down_blocks.0.…   peft's own files
    lora_unet_down_blocks_0_…_to_k     sd-scripts; `lycoris_…` is LyCORIS' own

A family adds stems of its own (`LoraFormat.other_stems`), such as CompVis block names, and layers that hold several.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from loraloom.lora.inject import base_layers
from loraloom.protocols.model import DiffusionModel

_OLD_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora$")


def base_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution layers of the base by name, sorted."""
    return dict(sorted(base_layers(module)))


def weight_shapes(model: DiffusionModel, part: str) -> dict[str, tuple[int, ...]]:
    """The weight's shape of every linear and convolution layer of a part, by name, and of its `fused_layers`."""
    layers: dict[str, Any] = {**base_modules(model.modules.skeleton(part))}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    return shapes | {name: _fused_shape(shapes, members) for name, members in _fused(model, part, shapes).items()}


def fused_layers(model: DiffusionModel, part: str) -> dict[str, tuple[str, ...]]:
    """Name of each layer that holds several in other programs' files, to the modules here in the order of its rows."""
    return _fused(model, part, base_modules(model.modules.skeleton(part)))


def stems_of(model: DiffusionModel, part: str) -> dict[str, str]:
    """Every stem that means a module of `part`, or one of its `fused_layers`, to that name."""
    found: dict[str, str] = {}
    names = list(base_modules(model.modules.skeleton(part)))
    for name in [*names, *_fused(model, part, names)]:
        for stem in _stems(model, part, name):
            found.setdefault(stem, name)
    for stem, name in model.lora_format.other_stems(part, names).items():
        found.setdefault(stem, name)
    return found


def plain_stem(stem: str) -> str:
    """A stem with the old attention processors' names as the modules are named today: `.processor.to_k_lora` is `.to_k`."""
    match = _OLD_PROCESSOR.search(stem)
    if not match:
        return stem
    before, word = stem[: match.start()], match[1]
    if before.endswith(".self_attn"):
        return f"{before}.{word}_proj"
    return f"{before}.to_out.0" if word == "out" else f"{before}.to_{word}"


def _fused(model: DiffusionModel, part: str, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {layer.name: layer.modules for layer in model.lora_format.fused(part, list(names))}


def _fused_shape(shapes: Mapping[str, tuple[int, ...]], members: Sequence[str]) -> tuple[int, ...]:
    """(outputs, inputs) of the one layer that holds these modules."""
    inputs = {shapes[name][1] for name in members}
    assert len(inputs) == 1, "layers that read different inputs cannot be one"
    return sum(shapes[name][0] for name in members), inputs.pop()


def _stems(model: DiffusionModel, part: str, name: str) -> Iterator[str]:
    form = model.lora_format
    component, kohya = form.component(part), form.kohya_prefix(part)
    for known in dict.fromkeys((form.diffusers_name(part, name), name)):
        flat = known.replace(".", "_")
        yield f"{component}.{known}"
        yield known
        yield f"base_model.model.{known}"
        yield f"base_model.model.{component}.{known}"
        yield f"{kohya}_{flat}"
        yield f"lycoris_{flat}"
