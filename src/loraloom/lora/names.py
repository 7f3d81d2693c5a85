"""Names of modules in adapter files, in every key format that is in use, mapped to the modules of a model.

In: a model and one of its parts. Out: stem of a key (all before the weight's own name) -> module name:

    unet.down_blocks.0.….to_k          diffusers and peft in diffusers; also without the first word (old attention processors)
    base_model.model.down_blocks.0.…   peft's own files
    lora_unet_down_blocks_0_…_to_k     sd-scripts; `lycoris_…` is LyCORIS' own
    lora_unet_input_blocks_1_1_…       sd-scripts on the CompVis block names; dotted behind `diffusion_model.` too
"""

import re
from collections.abc import Iterator, Mapping

from torch import nn

from loraloom.lora.inject import base_layers
from loraloom.protocols.model import DiffusionModel

PARTS = ("denoiser", "text_encoder")

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTER = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
}  # fmt: skip
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_OLD_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora$")


def base_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution layers of the base by name, sorted."""
    return dict(sorted(base_layers(module)))


def stems_of(model: DiffusionModel, part: str) -> dict[str, str]:
    """Every stem that means a module of `part`, to the module's name."""
    found: dict[str, str] = {}
    modules = base_modules(model.module(part))
    blocks = _layers_per_block(modules)
    for name in modules:
        for stem in _stems(model, part, name, blocks):
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


def compvis_name(name: str, layers_per_block: int) -> str | None:
    """A UNet module's name in CompVis' and Stability's own code, as in `model.diffusion_model.<name>`; None without one.

    Their blocks are counted through: `layers_per_block` resnets and a sampler make one group (diffusers'
    `convert_ldm_unet_checkpoint`).
    """
    if name in _OUTER:
        return _OUTER[name]
    if match := _MID.fullmatch(name):
        kind, number, rest = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * number if kind == 'resnets' else 1}.{_inner(kind, rest)}"
    match = _BLOCK.fullmatch(name)
    if not match:
        return None
    side, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    group = layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{group * (block + 1)}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        return f"output_blocks.{group * block + layers_per_block}.2.{rest}"
    first = (
        f"input_blocks.{group * block + number + 1}" if side == "down" else f"output_blocks.{group * block + number}"
    )
    return f"{first}.{0 if kind == 'resnets' else 1}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


def _layers_per_block(modules: Mapping[str, nn.Module]) -> int:
    numbers = [
        int(match[4]) for name in modules if (match := _BLOCK.fullmatch(name)) and name.startswith("down_blocks.0.r")
    ]
    return max(numbers, default=-1) + 1


def _stems(model: DiffusionModel, part: str, name: str, layers_per_block: int) -> Iterator[str]:
    exchange = model.diffusers_name(part, name)
    component, kohya = model.component(part), model.kohya_prefix(part)
    for known in dict.fromkeys((exchange, name)):
        flat = known.replace(".", "_")
        yield f"{component}.{known}"
        yield known
        yield f"base_model.model.{known}"
        yield f"base_model.model.{component}.{known}"
        yield f"{kohya}_{flat}"
        yield f"lycoris_{flat}"
    if part != "denoiser":
        return
    foreign = compvis_name(name, layers_per_block)
    if foreign is None:
        return
    spelled = [foreign]
    if ".upsamplers." in name:  # a block without attention has no place 1, and its sampler moves up
        spelled.append(foreign.replace(".2.", ".1.", 1))
    for one in spelled:
        yield f"{kohya}_{one.replace('.', '_')}"
        yield f"diffusion_model.{one}"
        yield f"model.diffusion_model.{one}"
