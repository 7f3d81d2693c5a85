"""Which layers of Z-Image carry LoRA, and how adapter files name them.

In: names of modules. Out: presets, and names in Tongyi's code, which ComfyUI keeps: `attention.qkv` holds q, k and v, and
`attention.out` is the output (diffusers' `_convert_non_diffusers_z_image_lora_to_diffusers`).
"""

from types import MappingProxyType

from loraloom.extensions.families._diffusers.native_names import BlockNames, NativeNames
from loraloom.extensions.families._flow.lora_format import FlowLoraFormat
from loraloom.extensions.families._flow.native_tensors import NativeTensors
from loraloom.protocols.model import LoraPreset, Part

_LAYERS = {
    "attention.to_out.0": "attention.out",
    **{f"feed_forward.w{number}": f"feed_forward.w{number}" for number in (1, 2, 3)},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
_FUSED = {"attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v")}
NAMES = NativeNames(
    blocks=tuple(
        BlockNames(ours=blocks, theirs=blocks, layers=_LAYERS, fused=_FUSED)
        for blocks in ("layers", "noise_refiner", "context_refiner")
    ),
    outer={
        "all_x_embedder.2-1": "x_embedder",
        "all_final_layer.2-1.linear": "final_layer.linear",
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        "t_embedder.mlp.0": "t_embedder.mlp.0",
        "t_embedder.mlp.2": "t_embedder.mlp.2",
        "cap_embedder.1": "cap_embedder.1",
    },
)
TENSORS = NativeTensors(
    names=NAMES,
    renamed={
        r"(.+\.attention)\.norm_q\.weight": r"\1.q_norm.weight",
        r"(.+\.attention)\.norm_k\.weight": r"\1.k_norm.weight",
        # Norms and padding tokens have their names in both.
        r"(.+_norm[12]\.weight|cap_embedder\.0\.weight|x_pad_token|cap_pad_token)": r"\1",
    },
    ignored=("norm_final\\.weight",),
)
FORMAT = FlowLoraFormat(
    architecture="z-image",
    kohya_version="z_image",
    programs=MappingProxyType({"diffusers": "diffusers", "kohya": "ComfyUI, musubi-tuner and diffusers"}),
    components=MappingProxyType({"denoiser": "transformer", "vae": "vae", "text_encoder": "text_encoder"}),
    prefixes=MappingProxyType({"denoiser": "lora_unet"}),
    names=NAMES,
)
_ATTENTION = r"attention\.(to_q|to_k|to_v|to_out\.0)"
_PRESETS = {
    # Text and image are one sequence in `layers`: there is no cross-attention of its own.
    "cross_attention": LoraPreset(rf"layers\.\d+\.{_ATTENTION}"),
    "attention": LoraPreset(rf"(layers|noise_refiner|context_refiner)\.\d+\.{_ATTENTION}"),
    "blocks": LoraPreset(rf"layers\.\d+\.({_ATTENTION}|feed_forward\.w[123])"),
    "all_linear": LoraPreset(r".*"),
}
PARTS = (
    Part(name="denoiser", role="denoiser", lora_targets=MappingProxyType(_PRESETS)),
    Part(name="vae", role="vae"),
    Part(name="text_encoder", role="text_encoder"),
)
