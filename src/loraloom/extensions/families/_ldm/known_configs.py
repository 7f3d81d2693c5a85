"""Configs of the public models that a single checkpoint does not carry: Stable Diffusion 1 and 2, and Stable Diffusion XL.

In: a kind of checkpoint. Out: the files of a diffusers folder but for the tokenizer's, as plain values. Keys that are left
out have diffusers' own defaults. Sources: the model cards' repositories; a test compares the numbers of weights.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._ldm.layout import Kind

Configs = Mapping[str, Mapping[str, Any]]
"""Name of a file in a diffusers folder -> its content."""

PADDING = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
"""What each tokenizer fills a window with; the one of Stable Diffusion 2 is as `tokenizer_2`."""

_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_FOUR_LEVELS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_CLIP_L = {
    **_TEXT,
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_OPENCLIP_H = {
    **_TEXT,
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_OPENCLIP_G = {
    **_TEXT,
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}

STABLE_DIFFUSION_1: Configs = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    },
    "unet/config.json": {
        **_UNET,
        **_FOUR_LEVELS,
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae/config.json": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "text_encoder/config.json": _CLIP_L,
    "scheduler/scheduler_config.json": {**_NOISE, "_class_name": "PNDMScheduler"},
}
STABLE_DIFFUSION_2: Configs = {
    **STABLE_DIFFUSION_1,
    "unet/config.json": {
        **_UNET,
        **_FOUR_LEVELS,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "text_encoder/config.json": _OPENCLIP_H,
}
STABLE_DIFFUSION_XL: Configs = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    },
    "unet/config.json": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae/config.json": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder/config.json": _CLIP_L,
    "text_encoder_2/config.json": _OPENCLIP_G,
    "scheduler/scheduler_config.json": {
        **_NOISE,
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "leading",
    },
}


def configs_for(kind: Kind | None, text_width: int | None) -> tuple[Configs, Mapping[str, str]]:
    """The configs of a kind of checkpoint, and each of its tokenizers with its padding.

    Args:
        kind: As `layout.kind_of` tells it.
        text_width: Width of the prompt embeddings that the UNet reads; it differs between Stable Diffusion 1 and 2.
    """
    if kind == "two encoders":
        return STABLE_DIFFUSION_XL, PADDING
    if text_width == STABLE_DIFFUSION_2["unet/config.json"]["cross_attention_dim"]:
        return STABLE_DIFFUSION_2, {"tokenizer": PADDING["tokenizer_2"]}
    return STABLE_DIFFUSION_1, {"tokenizer": PADDING["tokenizer"]}
