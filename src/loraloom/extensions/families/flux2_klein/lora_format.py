"""Which layers of FLUX.2 klein carry LoRA, and how adapter files name them.

In: names of modules. Out: presets, and names in Black Forest Labs' code: double blocks hold q, k and v of image and of text as
one `qkv`; the first layer of a single block is one matrix in diffusers too.
"""

from types import MappingProxyType

from loraloom.extensions.families._diffusers.native_names import BlockNames, NativeNames
from loraloom.extensions.families._flow.lora_format import FlowLoraFormat
from loraloom.protocols.model import LoraPreset, Part

NAMES = NativeNames(
    blocks=(
        BlockNames(
            ours="transformer_blocks",
            theirs="double_blocks",
            layers={
                "attn.to_out.0": "img_attn.proj",
                "attn.to_add_out": "txt_attn.proj",
                "ff.linear_in": "img_mlp.0",
                "ff.linear_out": "img_mlp.2",
                "ff_context.linear_in": "txt_mlp.0",
                "ff_context.linear_out": "txt_mlp.2",
            },
            fused={
                "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
                "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            },
        ),
        BlockNames(
            ours="single_transformer_blocks",
            theirs="single_blocks",
            layers={"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        ),
    ),
    outer={
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "proj_out": "final_layer.linear",
    },
)
FORMAT = FlowLoraFormat(
    architecture="flux-2-klein",
    kohya_version="flux2_klein",
    programs=MappingProxyType({"diffusers": "diffusers", "kohya": "ComfyUI, musubi-tuner and diffusers"}),
    components=MappingProxyType({"denoiser": "transformer", "vae": "vae", "text_encoder": "text_encoder"}),
    prefixes=MappingProxyType({"denoiser": "lora_unet"}),
    names=NAMES,
)
_EXCLUDED = {
    r"norm_out\.linear": "other programs hold its two halves in the other order, so that an export would be wrong there"
}
_ATTENTION = (
    r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
)
_PRESETS = {
    # Text and image attend to each other in every block: there is no cross-attention of its own.
    "cross_attention": LoraPreset(_ATTENTION),
    "attention": LoraPreset(_ATTENTION),
    "blocks": LoraPreset(rf"{_ATTENTION}|transformer_blocks\.\d+\.(ff|ff_context)\..*"),
    "all_linear": LoraPreset(r"(?!norm_out\.linear).*"),
}
PARTS = (
    Part(
        name="denoiser",
        role="denoiser",
        lora_targets=MappingProxyType(_PRESETS),
        excluded=MappingProxyType(_EXCLUDED),
    ),
    Part(name="vae", role="vae"),
    Part(name="text_encoder", role="text_encoder"),
)
