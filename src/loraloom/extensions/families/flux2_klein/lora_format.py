"""Which layers of FLUX.2 klein carry LoRA, and how adapter files name them.

In: names of modules. Out: presets, and names in Black Forest Labs' code: double blocks hold q, k and v of image and of text as
one `qkv`; the first layer of a single block is one matrix in diffusers too.
"""

from types import MappingProxyType

from loraloom.extensions.families._diffusers.native_names import BlockNames, NativeNames
from loraloom.extensions.families._flow import black_forest
from loraloom.extensions.families._flow.lora_format import FlowLoraFormat
from loraloom.extensions.families._flow.native_tensors import NativeTensors
from loraloom.protocols.model import LoraPreset, Part

NAMES = NativeNames(
    blocks=(
        BlockNames(
            ours="transformer_blocks",
            theirs="double_blocks",
            layers={
                **black_forest.PROJECTIONS,
                "ff.linear_in": "img_mlp.0",
                "ff.linear_out": "img_mlp.2",
                "ff_context.linear_in": "txt_mlp.0",
                "ff_context.linear_out": "txt_mlp.2",
            },
            fused=black_forest.FUSED,
        ),
        BlockNames(
            ours="single_transformer_blocks",
            theirs="single_blocks",
            layers={"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        ),
    ),
    outer={
        **black_forest.OUTER,
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
    },
)
TENSORS = NativeTensors(names=NAMES, renamed=black_forest.NORMS, swapped=black_forest.SWAPPED)
FORMAT = FlowLoraFormat(
    architecture="flux-2-klein",
    kohya_version="flux2_klein",
    programs=MappingProxyType({"diffusers": "diffusers", "kohya": "ComfyUI, musubi-tuner and diffusers"}),
    components=MappingProxyType({"denoiser": "transformer", "vae": "vae", "text_encoder": "text_encoder"}),
    prefixes=MappingProxyType({"denoiser": "lora_unet"}),
    names=NAMES,
)
_ATTENTION = (
    rf"{black_forest.ATTENTION}"
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
        excluded=MappingProxyType(black_forest.EXCLUDED),
    ),
    Part(name="vae", role="vae"),
    Part(name="text_encoder", role="text_encoder"),
)
