"""Check the configs of a UNet and a CLIP text encoder: every number against its range, before anything is built.

In: a config as parsed JSON. Out: nothing, or a `UserError` with file, key, value and range. Every number that determines
an allocation (widths, layers, heads, vocabulary) has a range. Values that depend on each other are also checked: blocks
and their widths, groups that divide them, the width of the prompt embeddings. The library ignores all other keys.
"""

from collections.abc import Collection, Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    ACTIVATION,
    MAX_BLOCKS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    VAE,
    WIDTHS,
    Rule,
    check_components,
    check_config,
    each,
    flag,
    groups_divide,
    nothing,
    number,
    one_of,
    one_or_each,
    or_null,
    same_length,
    whole,
)
from loraloom.models.files import refuse_foreign
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown

UNET: Mapping[str, Rule] = {
    "_class_name": one_of("UNet2DConditionModel"),
    "sample_size": or_null(whole(1, 1024)),
    "in_channels": whole(1, 64),
    "out_channels": whole(1, 64),
    "center_input_sample": flag,
    "flip_sin_to_cos": flag,
    "freq_shift": number(-1000, 1000),
    "down_block_types": each(one_of("CrossAttnDownBlock2D", "DownBlock2D"), MAX_BLOCKS),
    "up_block_types": each(one_of("CrossAttnUpBlock2D", "UpBlock2D"), MAX_BLOCKS),
    "mid_block_type": or_null(one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")),
    "only_cross_attention": one_or_each(flag, MAX_BLOCKS),
    "mid_block_only_cross_attention": or_null(flag),
    "block_out_channels": WIDTHS,
    "layers_per_block": one_or_each(whole(1, 8), MAX_BLOCKS),
    "downsample_padding": whole(0, 1),
    "mid_block_scale_factor": number(1e-3, 1e3),
    "dropout": number(0, 1),
    "act_fn": ACTIVATION,
    "norm_num_groups": whole(1, 1024),
    "norm_eps": number(1e-12, 1),
    "cross_attention_dim": whole(1, MAX_WIDTH),
    "transformer_layers_per_block": one_or_each(whole(1, 16), MAX_BLOCKS),
    "reverse_transformer_layers_per_block": or_null(each(whole(1, 16), MAX_BLOCKS)),
    "attention_head_dim": one_or_each(whole(1, 256), MAX_BLOCKS),
    "num_attention_heads": nothing,
    "dual_cross_attention": flag,
    "use_linear_projection": flag,
    "upcast_attention": or_null(flag),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "resnet_skip_time_act": flag,
    "resnet_out_scale_factor": number(1e-3, 1e3),
    "time_embedding_type": one_of("positional"),
    "time_embedding_dim": or_null(whole(1, 4 * MAX_WIDTH)),
    "time_embedding_act_fn": or_null(ACTIVATION),
    "timestep_post_act": or_null(ACTIVATION),
    "conv_in_kernel": whole(1, 7),
    "conv_out_kernel": whole(1, 7),
    "attention_type": one_of("default"),
    "class_embeddings_concat": flag,
    "cross_attention_norm": or_null(one_of("layer_norm", "group_norm")),
    "addition_embed_type_num_heads": whole(1, 1024),
    **dict.fromkeys(
        (
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "class_embed_type",
            "num_class_embeds",
            "time_cond_proj_dim",
            "addition_embed_type",
            "projection_class_embeddings_input_dim",
            "addition_time_embed_dim",
        ),
        nothing,
    ),
}

TEXT_ENCODER: Mapping[str, Rule] = {
    "model_type": one_of("clip_text_model", "clip"),
    "architectures": or_null(each(one_of("CLIPTextModel", "CLIPModel", "CLIPTextModelWithProjection"), 4)),
    "vocab_size": whole(2, MAX_VOCABULARY),
    "hidden_size": whole(1, MAX_WIDTH),
    "intermediate_size": whole(1, 8 * MAX_WIDTH),
    "projection_dim": or_null(whole(0, MAX_WIDTH)),
    "num_hidden_layers": whole(1, 64),
    "num_attention_heads": whole(1, 256),
    "max_position_embeddings": whole(2, 8192),
    "hidden_act": one_of("quick_gelu", "gelu", "gelu_new", "relu", "silu"),
    "layer_norm_eps": number(1e-12, 1),
    "attention_dropout": number(0, 1),
    "dropout": number(0, 1),
    "initializer_range": number(0, 100),
    "initializer_factor": number(0, 100),
    "num_labels": whole(0, 1000),
    "attn_implementation": or_null(one_of("eager", "sdpa")),
    "_attn_implementation": or_null(one_of("eager", "sdpa")),
    "eos_token_id": whole(0, MAX_VOCABULARY),  # CLIP's pooled embedding is that of this one token
    **dict.fromkeys(("bos_token_id", "pad_token_id"), or_null(one_or_each(whole(-1, MAX_VOCABULARY), 8))),
}

_COMPONENTS = {
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "text_encoder_2": {"CLIPTextModelWithProjection"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "tokenizer_2": {"CLIPTokenizer", "CLIPTokenizerFast"},
}
_LIBRARIES = {"diffusers", "transformers", "stable_diffusion"}
_UNUSED = {"scheduler", "safety_checker", "feature_extractor", "image_encoder"}
_FLAGS = {"requires_safety_checker", "force_zeros_for_empty_prompt", "add_watermarker"}


def check_unet(config: Mapping[str, Any], rules: Mapping[str, Rule] = UNET) -> None:
    """Raise `UserError` for a UNet config whose numbers are out of range or do not fit together."""
    where = "unet/config.json"
    check_config(config, rules, where)
    widths = config.get("block_out_channels", [320, 640, 1280, 1280])
    down = config.get("down_block_types", [""] * 4)
    up = config.get("up_block_types", [""] * 4)
    same_length(where, {"block_out_channels": widths, "down_block_types": down, "up_block_types": up})
    for key in ("layers_per_block", "transformer_layers_per_block", "attention_head_dim", "only_cross_attention"):
        if isinstance(config.get(key), list):
            same_length(where, {"block_out_channels": widths, key: config[key]})
    groups_divide(where, config.get("norm_num_groups", 32), widths)
    heads = config.get("attention_head_dim", 8)
    for count, width in zip(heads if isinstance(heads, list) else [heads] * len(widths), widths, strict=True):
        if count > width:
            raise UserError(f"{where}: attention_head_dim", got=count, expected=f"at most the block's width of {width}")
    for key in ("conv_in_kernel", "conv_out_kernel"):
        if config.get(key, 3) % 2 == 0:
            raise UserError(f"{where}: {key}", got=config[key], expected="an odd number")


def check_text_encoder(config: Mapping[str, Any], folder: str = "text_encoder") -> Mapping[str, Any]:
    """The part of a config that describes the text encoder.

    Raises:
        UserError: A number is out of range, or numbers do not fit together.
    """
    where = f"{folder}/config.json"
    inner = config.get("text_config")
    if config.get("model_type") == "clip" and inner is not None:  # the text half of a whole CLIP
        if not isinstance(inner, dict):
            raise UserError(f"{where}: text_config", got=shown(inner), expected="an object")
        refuse_foreign(inner, where)
        config = inner
    check_config(config, TEXT_ENCODER, where)
    width, heads = config.get("hidden_size", 512), config.get("num_attention_heads", 8)
    if width % heads:
        raise UserError(f"{where}: hidden_size", got=width, expected=f"a multiple of num_attention_heads ({heads})")
    return config


def check_model_index(index: Mapping[str, Any], pipelines: Collection[str], parts: Collection[str]) -> None:
    """Raise `UserError` unless a model_index.json names only parts of a known pipeline.

    Args:
        index: The file's content.
        pipelines: Known pipeline classes, the plain one first.
        parts: Folders that the family reads.
    """
    components = {name: kinds for name, kinds in _COMPONENTS.items() if name in parts}
    plain = {name: entry for name, entry in index.items() if name not in _FLAGS}
    check_components(plain, pipelines, components, _UNUSED, libraries=_LIBRARIES)


def check_together(
    unet: Mapping[str, Any], vae: Mapping[str, Any], text_width: int, of_what: str = "the text encoder's hidden_size"
) -> None:
    """Raise `UserError` unless the parts of a model fit each other; `text_width` is that of a prompt embedding."""
    latent, out = vae.get("latent_channels", 4), unet.get("out_channels", 4)
    if out != latent:
        raise UserError("unet/config.json: out_channels", got=out, expected=f"the VAE's latent_channels ({latent})")
    reads = unet.get("cross_attention_dim", 1280)
    if text_width != reads:
        raise UserError(
            "unet/config.json: cross_attention_dim",
            got=reads,
            expected=f"{of_what} ({text_width})",
            fix="the UNet and the text encoder belong to different models",
        )


def refuse_more_than_latents(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raise `UserError` for a UNet that takes more than noisy latents, with the kind that it is by its channels."""
    taken, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    UNET["in_channels"](taken, "unet/config.json: in_channels")  # this stands before the checks of all other values
    VAE["latent_channels"](latents, "vae/config.json: latent_channels")
    if taken == latents:
        return
    kinds = {9: "inpainting: a mask and a masked image", 5: "depth: a depth map", 8: "editing: a second image"}
    kind = kinds.get(taken if latents == 4 else 0, "something beside the latents")
    raise UserError(
        f"this UNet takes more than latents ({kind}), which training does not give it",
        got=f"{taken} input channels",
        expected=f"{latents}",
        fix="train on the text-to-image model that it was made from; the LoRA usually works on both",
    )
