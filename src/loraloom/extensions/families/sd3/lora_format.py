"""Which layers of Stable Diffusion 3 carry LoRA, and how adapter files name them.

In: names of modules. Out: presets, and names in Stability's code: `x_block` is the image's half of a joint block and
`context_block` the text's; each holds q, k and v as one `qkv` (diffusers' `convert_sd3_transformer_checkpoint_to_diffusers`).
"""

from types import MappingProxyType

from loraloom.extensions.families._diffusers.native_names import BlockNames, NativeNames
from loraloom.extensions.families._flow.lora_format import FlowLoraFormat
from loraloom.extensions.families._flow.native_tensors import NativeTensors
from loraloom.extensions.families._ldm.presets import ATTENTION_OF_CLIP
from loraloom.protocols.model import LoraPreset, Part

NAMES = NativeNames(
    blocks=(
        BlockNames(
            ours="transformer_blocks",
            theirs="joint_blocks",
            layers={
                "attn.to_out.0": "x_block.attn.proj",
                "attn.to_add_out": "context_block.attn.proj",
                "attn2.to_out.0": "x_block.attn2.proj",
                "ff.net.0.proj": "x_block.mlp.fc1",
                "ff.net.2": "x_block.mlp.fc2",
                "ff_context.net.0.proj": "context_block.mlp.fc1",
                "ff_context.net.2": "context_block.mlp.fc2",
                "norm1.linear": "x_block.adaLN_modulation.1",
                "norm1_context.linear": "context_block.adaLN_modulation.1",
            },
            fused={
                "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
                "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            },
        ),
    ),
    outer={
        "pos_embed.proj": "x_embedder.proj",
        "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "proj_out": "final_layer.linear",
    },
)
TENSORS = NativeTensors(
    names=NAMES,
    renamed={
        r"pos_embed\.pos_embed": "pos_embed",
        **{
            rf"transformer_blocks\.(\d+)\.{attention}\.{ours}\.weight": rf"joint_blocks.\1.{theirs}.weight"
            for attention, ours, theirs in (
                ("attn", "norm_q", "x_block.attn.ln_q"),
                ("attn", "norm_k", "x_block.attn.ln_k"),
                ("attn", "norm_added_q", "context_block.attn.ln_q"),
                ("attn", "norm_added_k", "context_block.attn.ln_k"),
                ("attn2", "norm_q", "x_block.attn2.ln_q"),
                ("attn2", "norm_k", "x_block.attn2.ln_k"),
            )
        },
    },
    swapped={r"norm_out\.linear": "final_layer.adaLN_modulation.1"},
    swapped_in_last={
        r"transformer_blocks\.(\d+)\.norm1_context\.linear": r"joint_blocks.\1.context_block.adaLN_modulation.1"
    },
)
COMPONENTS = {
    "denoiser": "transformer",
    "vae": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
}
FORMAT = FlowLoraFormat(
    architecture="stable-diffusion-3",
    kohya_version="sd3",
    programs=MappingProxyType({"diffusers": "diffusers", "kohya": "ComfyUI and sd-scripts"}),
    components=MappingProxyType(COMPONENTS),
    prefixes=MappingProxyType({"denoiser": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}),
    names=NAMES,
)


def parts_of(num_blocks: int, *, t5: bool = True) -> tuple[Part, ...]:
    """The parts with what carries LoRA in each.

    Args:
        num_blocks: Joint blocks of the denoiser. The last one gives no text on: its text queries are computed and not read.
        t5: Whether there is a third text encoder.
    """
    last = rf"transformer_blocks\.{num_blocks - 1}\."
    swapped = "other programs hold its two halves in the other order, so that an export would be wrong there"
    excluded = {
        r"norm_out\.linear": swapped,
        rf"{last}norm1_context\.linear": swapped,
        rf"{last}attn\.add_q_proj": "the last block does not read the queries of the text, so that a LoRA gets no gradient",
    }
    never = "|".join(excluded)
    attention = r"to_q|to_k|to_v|to_out\.0"
    text = r"add_q_proj|add_k_proj|add_v_proj|to_add_out"
    blocks = r"transformer_blocks\.\d+\."
    presets = {
        # Text and image attend to each other in every block: there is no cross-attention of its own.
        "cross_attention": LoraPreset(rf"(?!{never}){blocks}attn2?\.({attention}|{text})"),
        "attention": LoraPreset(rf"(?!{never}){blocks}attn2?\.({attention}|{text})"),
        "image_attention": LoraPreset(rf"{blocks}attn2?\.({attention})"),
        "all_linear": LoraPreset(rf"(?!{never}).*"),
        "all_linear_conv": LoraPreset(rf"(?!{never}).*", ("Linear", "Conv2d")),
    }
    parts = (
        Part(
            name="denoiser",
            role="denoiser",
            lora_targets=MappingProxyType(presets),
            excluded=MappingProxyType(excluded),
        ),
        Part(name="vae", role="vae"),
        Part(name="text_encoder", role="text_encoder", lora_targets=ATTENTION_OF_CLIP),
        Part(name="text_encoder_2", role="text_encoder", lora_targets=ATTENTION_OF_CLIP),
        Part(name="text_encoder_3", role="text_encoder"),
    )
    return parts if t5 else parts[:-1]
