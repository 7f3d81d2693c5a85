"""How adapter files name the layers of HunyuanDiT: diffusers, Tencent's own code, ComfyUI and kohya's hydit branch.

In: names of modules. Out: names in Tencent's code, stems of keys, and the layers that Tencent holds as one: `Wqkv` of
self-attention and `kv_proj` of cross-attention (diffusers' `convert_hunyuandit_to_diffusers.py` takes them apart).
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from loraloom.extensions.families.hunyuan_dit.source import PART_FOLDER
from loraloom.protocols.model import FusedLayer

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attn1.to_out.0": "attn1.out_proj",
    "attn2.to_q": "attn2.q_proj",
    "attn2.to_out.0": "attn2.out_proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
    "norm1.linear": "default_modulation.1",
    "skip_linear": "skip_linear",
}
_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "text_embedder.linear_1": "mlp_t5.0",
    "text_embedder.linear_2": "mlp_t5.2",
    "time_extra_emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_extra_emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_extra_emb.extra_embedder.linear_1": "extra_embedder.0",
    "time_extra_emb.extra_embedder.linear_2": "extra_embedder.2",
    **{f"time_extra_emb.pooler.{name}": f"pooler.{name}" for name in ("q_proj", "k_proj", "v_proj", "c_proj")},
    "proj_out": "final_layer.linear",
}
_FUSED = {"attn1.Wqkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attn2.kv_proj": ("attn2.to_k", "attn2.to_v")}


class HunyuanDitFormat:
    """See `protocols.model.LoraFormat`."""

    architecture = "hunyuan-dit"
    kohya_version = "hunyuan_dit"
    programs: Mapping[str, str] = MappingProxyType(
        {
            "diffusers": "diffusers, by loraloom.load_adapter (it has no loader for this model)",
            "kohya": "ComfyUI and kohya's hydit branch",
            "native": "Tencent's own code and ComfyUI",
        }
    )

    def component(self, part: str) -> str:
        """`transformer`, `vae`, `text_encoder` or `text_encoder_2`."""
        return PART_FOLDER[part]

    def kohya_prefix(self, part: str) -> str:
        """`lora_unet` or `lora_te1`."""
        return {"denoiser": "lora_unet", "text_encoder": "lora_te1"}[part]

    def diffusers_name(self, part: str, module_name: str) -> str:
        """The module's own name."""
        return module_name

    def kohya_name(self, part: str, name: str) -> str:
        """Tencent's name, as kohya's hydit branch and ComfyUI have it; a text encoder's layer has its own."""
        return (native_name(name) or name) if part == "denoiser" else name

    def unlearned(self, part: str) -> Sequence[str]:
        """The pooler's query, which Tencent's target `q_proj` hits and which gets no gradient there."""
        return ("time_extra_emb.pooler.q_proj",) if part == "denoiser" else ()

    def other_stems(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Stems on Tencent's names, with the prefixes of ComfyUI, kohya and peft."""
        if part != "denoiser":
            return {}
        native = {theirs: name for name in names if (theirs := native_name(name))}
        native.update({layer.name: layer.name for layer in self.fused(part, names)})
        found: dict[str, str] = {}
        for theirs, name in native.items():
            for prefix in ("base_model.model.", "diffusion_model.", "model.diffusion_model.", "transformer.", ""):
                found[f"{prefix}{theirs}"] = name
            found[f"lora_unet_{theirs.replace('.', '_')}"] = name
        return found

    def fused(self, part: str, names: Sequence[str]) -> Sequence[FusedLayer]:
        """`Wqkv` and `kv_proj` of every block."""
        if part != "denoiser":
            return ()
        known = set(names)
        blocks = sorted({int(match[1]) for name in names if (match := _BLOCK.fullmatch(name))})
        layers = [
            FusedLayer(f"blocks.{block}.{one}", tuple(f"blocks.{block}.{member}" for member in members))
            for block in blocks
            for one, members in _FUSED.items()
        ]
        return [layer for layer in layers if known.issuperset(layer.modules)]


def native_name(name: str) -> str | None:
    """A denoiser module's name in Tencent's code; None for one that is part of a fused layer there, or is not the same.

    `norm_out.linear` holds scale and shift in the other order there: its update would be another.
    """
    if match := _BLOCK.fullmatch(name):
        inner = _IN_BLOCK.get(match[2])
        return f"blocks.{match[1]}.{inner}" if inner else None
    return _OUTER.get(name)
