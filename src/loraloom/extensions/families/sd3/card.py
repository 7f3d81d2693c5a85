"""What `loraloom families` says of Stable Diffusion 3, with the configs of version 3.5 medium."""

from loraloom.extensions.families._flow.usual_parts import T5_XXL, VAE_OF_FLUX
from loraloom.protocols.family_card import FamilyCard, TextTensor

_CLIP = {
    "architectures": ["CLIPTextModelWithProjection"],
    "model_type": "clip_text_model",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
}

CARD = FamilyCard(
    takes="Stable Diffusion 3 medium and 3.5 medium and large, with or without T5: diffusers folders, hub ids, single "
    ".safetensors checkpoints",
    base="stabilityai/stable-diffusion-3.5-medium",
    size_px=1024,
    text_tokens={"text_encoder": 77, "text_encoder_2": 77, "text_encoder_3": 256},
    text_tensors={
        "clip": TextTensor(shape=(77, 2048)),
        "pooled": TextTensor(shape=(2048,)),
        "t5": TextTensor(shape=(256, 4096)),
    },
    licence="Stability AI Community License: free up to a yearly revenue that it names",
    gaps=(
        "A checkpoint in one file takes encoders, VAE and configs from a diffusers folder or hub id (--model-config).",
        "3.5 large turbo is recognised by its name: its configs do not say that it is distilled.",
    ),
    configs={
        "transformer/config.json": {
            "_class_name": "SD3Transformer2DModel",
            "attention_head_dim": 64,
            "caption_projection_dim": 1536,
            "dual_attention_layers": list(range(13)),
            "in_channels": 16,
            "joint_attention_dim": 4096,
            "num_attention_heads": 24,
            "num_layers": 24,
            "out_channels": 16,
            "patch_size": 2,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "sample_size": 128,
        },
        "vae/config.json": {**VAE_OF_FLUX, "scaling_factor": 1.5305, "shift_factor": 0.0609},
        "text_encoder/config.json": {
            **_CLIP,
            "hidden_act": "quick_gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
        },
        "text_encoder_2/config.json": {
            **_CLIP,
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "projection_dim": 1280,
        },
        "text_encoder_3/config.json": T5_XXL,
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,
        },
    },
)
