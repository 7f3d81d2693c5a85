"""What `loraloom families` says of FLUX.1, with the configs of dev."""

from loraloom.extensions.families._flow.usual_parts import SHIFTED_BY_TOKENS, T5_XXL, VAE_OF_FLUX
from loraloom.protocols.family_card import FamilyCard, TextTensor

CARD = FamilyCard(
    takes="FLUX.1 dev, and schnell for generation: diffusers folders, hub ids, single .safetensors checkpoints",
    base="black-forest-labs/FLUX.1-dev",
    size_px=1024,
    text_tokens={"text_encoder": 77, "text_encoder_2": 512},
    text_tensors={"pooled": TextTensor(shape=(768,)), "t5": TextTensor(shape=(512, 4096))},
    licence="FLUX.1 dev Non-Commercial License; schnell is Apache-2.0",
    gaps=(
        "A checkpoint in one file takes encoders, VAE and configs from a diffusers folder or hub id (--model-config).",
        "Fill, Depth, Canny and Kontext are refused: they take more than a prompt.",
    ),
    configs={
        "transformer/config.json": {
            "_class_name": "FluxTransformer2DModel",
            "attention_head_dim": 128,
            "axes_dims_rope": [16, 56, 56],
            "guidance_embeds": True,
            "in_channels": 64,
            "joint_attention_dim": 4096,
            "num_attention_heads": 24,
            "num_layers": 19,
            "num_single_layers": 38,
            "patch_size": 1,
            "pooled_projection_dim": 768,
        },
        "vae/config.json": VAE_OF_FLUX,
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "hidden_act": "quick_gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "max_position_embeddings": 77,
            "model_type": "clip_text_model",
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
            "vocab_size": 49408,
        },
        "text_encoder_2/config.json": T5_XXL,
        "scheduler/scheduler_config.json": SHIFTED_BY_TOKENS,
    },
)
