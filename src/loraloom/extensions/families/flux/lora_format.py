"""Which layers of FLUX.1 carry LoRA, and how adapter files name them.

In: names of modules. Out: presets, and names in Black Forest Labs' code: double blocks hold q, k and v of image and of text as
one `qkv`; single blocks hold q, k, v and the perceptron's first layer as `linear1`.
"""

from types import MappingProxyType

from loraloom.extensions.families._diffusers.native_names import BlockNames, NativeNames
from loraloom.extensions.families._flow import black_forest
from loraloom.extensions.families._flow.lora_format import FlowLoraFormat
from loraloom.extensions.families._flow.native_tensors import NativeTensors
from loraloom.extensions.families._ldm.presets import ATTENTION_OF_CLIP
from loraloom.protocols.model import LoraPreset, Part

NAMES = NativeNames(
    blocks=(
        BlockNames(
            ours="transformer_blocks",
            theirs="double_blocks",
            layers={
                **black_forest.PROJECTIONS,
                "ff.net.0.proj": "img_mlp.0",
                "ff.net.2": "img_mlp.2",
                "ff_context.net.0.proj": "txt_mlp.0",
                "ff_context.net.2": "txt_mlp.2",
                "norm1.linear": "img_mod.lin",
                "norm1_context.linear": "txt_mod.lin",
            },
            fused=black_forest.FUSED,
        ),
        BlockNames(
            ours="single_transformer_blocks",
            theirs="single_blocks",
            layers={"proj_out": "linear2", "norm.linear": "modulation.lin"},
            fused={"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
        ),
    ),
    outer={
        **black_forest.OUTER,
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    },
)
TENSORS = NativeTensors(names=NAMES, renamed=black_forest.NORMS, swapped=black_forest.SWAPPED)
FORMAT = FlowLoraFormat(
    architecture="flux-1-dev",
    kohya_version="flux1",
    programs=MappingProxyType({"diffusers": "diffusers", "kohya": "ComfyUI, Forge, sd-scripts and diffusers"}),
    components=MappingProxyType(
        {
            "denoiser": "transformer",
            "vae": "vae",
            "text_encoder": "text_encoder",
            "text_encoder_2": "text_encoder_2",
        }
    ),
    prefixes=MappingProxyType({"denoiser": "lora_unet", "text_encoder": "lora_te1"}),
    names=NAMES,
)
_NEVER = "|".join(black_forest.EXCLUDED)
_ATTENTION = (
    rf"{black_forest.ATTENTION}"
    r"|single_transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v)"
)
_PRESETS = {
    # Text and image attend to each other in every block: there is no cross-attention of its own.
    "cross_attention": LoraPreset(_ATTENTION),
    "attention": LoraPreset(_ATTENTION),
    "blocks": LoraPreset(
        rf"{_ATTENTION}|transformer_blocks\.\d+\.(ff|ff_context)\..*"
        r"|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
    ),
    "all_linear": LoraPreset(rf"(?!{_NEVER}).*"),
}
PARTS = (
    Part(
        name="denoiser",
        role="denoiser",
        lora_targets=MappingProxyType(_PRESETS),
        excluded=MappingProxyType(black_forest.EXCLUDED),
    ),
    Part(name="vae", role="vae"),
    Part(name="text_encoder", role="text_encoder", lora_targets=ATTENTION_OF_CLIP),
    Part(name="text_encoder_2", role="text_encoder"),
)
