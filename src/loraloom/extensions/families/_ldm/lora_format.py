"""Names of the layers of a UNet and its CLIP text encoders in adapter files: diffusers, kohya, and CompVis' block names.

In: names of modules. Out: stems of keys. `lora_unet_input_blocks_1_1_…` is the sd-scripts form of the CompVis names; there
is also a dotted form after `diffusion_model.`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loraloom.protocols.model import FusedLayer

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
PROGRAMS = {"diffusers": "diffusers", "kohya": "A1111, ComfyUI, Forge and sd-scripts"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass(slots=True, kw_only=True)
class LdmLoraFormat:
    """See `protocols.model.LoraFormat`.

    Attributes:
        architecture, kohya_version: As in the protocol.
        components: Part -> its name in a diffusers pipeline.
        prefixes: Part that learns -> first word of its keys in kohya's layout.
        compvis_layers: ResNets of a UNet level where kohya's layout has CompVis' block names; None where it has diffusers'.
    """

    architecture: str
    kohya_version: str
    components: Mapping[str, str]
    prefixes: Mapping[str, str]
    compvis_layers: int | None = None
    programs: Mapping[str, str] = field(default_factory=lambda: dict(PROGRAMS))

    def unlearned(self, part: str) -> Sequence[str]:
        """None: there is no native format."""
        return ()

    def component(self, part: str) -> str:
        """`unet`, `vae` or a text encoder's."""
        return self.components[part]

    def kohya_prefix(self, part: str) -> str:
        """`lora_unet`, `lora_te` and so on."""
        return self.prefixes[part]

    def diffusers_name(self, part: str, module_name: str) -> str:
        """The name with the `text_model.` that adapter files have and some module names of transformers 5 do not."""
        text = self.components[part].startswith("text_encoder")
        if text and not module_name.startswith(("text_model.", "text_projection")):
            return f"text_model.{module_name}"
        return module_name

    def kohya_name(self, part: str, name: str) -> str:
        """CompVis' name of a UNet layer where sd-scripts trains on a UNet of its own, else as in diffusers."""
        if self.compvis_layers is not None and self.components[part] == "unet":
            return compvis_name(name, self.compvis_layers) or name
        return self.diffusers_name(part, name)

    def other_stems(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Stems made from the CompVis block names."""
        if self.components[part] != "unet":
            return {}
        blocks = _layers_per_block(names)
        return {stem: name for name in reversed(names) for stem in _compvis_stems(name, blocks)}

    def fused(self, part: str, names: Sequence[str]) -> Sequence[FusedLayer]:
        """Empty: every program stores these layers separately."""
        return ()


def _compvis_stems(name: str, layers_per_block: int) -> Iterator[str]:
    foreign = compvis_name(name, layers_per_block)
    if foreign is None:
        return
    variants = [foreign]
    if ".upsamplers." in name:  # a block without attention has no index 1, and its sampler takes it
        variants.append(foreign.replace(".2.", ".1.", 1))
    for one in variants:
        yield f"lora_unet_{one.replace('.', '_')}"
        yield f"diffusion_model.{one}"
        yield f"model.diffusion_model.{one}"


def compvis_name(name: str, layers_per_block: int) -> str | None:
    """A UNet module's name in CompVis' and Stability's code, as in `model.diffusion_model.<name>`; None if it has none.

    Their blocks are numbered consecutively: `layers_per_block` resnets and a sampler make one group (diffusers'
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


def _layers_per_block(names: Sequence[str]) -> int:
    numbers = [
        int(match[4]) for name in names if (match := _BLOCK.fullmatch(name)) and name.startswith("down_blocks.0.r")
    ]
    return max(numbers, default=-1) + 1
