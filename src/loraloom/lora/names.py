"""Names of modules in adapter files, in every key format that is in use, mapped to the modules of a model.

In: a model and one of its parts. Out: stem of a key (all before the weight's own name) -> module name:

    unet.down_blocks.0.….to_k          diffusers and peft in diffusers; also without the first word (old attention processors)
    base_model.model.down_blocks.0.…   peft's own files
    lora_unet_down_blocks_0_…_to_k     sd-scripts; `lycoris_…` is LyCORIS' own

A family adds stems of its own (`LoraFormat.other_stems`), such as CompVis block names, and layers that hold several.
"""

import re
from collections.abc import Iterator

from torch import nn

from loraloom.lora.inject import base_layers
from loraloom.protocols.model import DiffusionModel

_OLD_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora$")


def base_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution layers of the base by name, sorted."""
    return dict(sorted(base_layers(module)))


def fused_layers(model: DiffusionModel, part: str) -> dict[str, tuple[str, ...]]:
    """Name of each layer that holds several in other programs' files, to the modules here in the order of its rows."""
    names = list(base_modules(model.modules.get(part)))
    return {layer.name: layer.modules for layer in model.lora_format.fused(part, names)}


def stems_of(model: DiffusionModel, part: str) -> dict[str, str]:
    """Every stem that means a module of `part`, or one of its `fused_layers`, to that name."""
    found: dict[str, str] = {}
    names = list(base_modules(model.modules.get(part)))
    for name in [*names, *fused_layers(model, part)]:
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


def _stems(model: DiffusionModel, part: str, name: str) -> Iterator[str]:
    form = model.lora_format
    exchange, component, kohya = form.diffusers_name(part, name), form.component(part), form.kohya_prefix(part)
    for known in dict.fromkeys((exchange, name)):
        flat = known.replace(".", "_")
        yield f"{component}.{known}"
        yield known
        yield f"base_model.model.{known}"
        yield f"base_model.model.{component}.{known}"
        yield f"{kohya}_{flat}"
        yield f"lycoris_{flat}"
