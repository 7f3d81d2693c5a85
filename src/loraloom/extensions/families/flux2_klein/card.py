"""What `loraloom families` says of FLUX.2 klein, with the configs of the base of 4 billion parameters."""

from loraloom.extensions.families._flow.usual_parts import QWEN3_4B, SHIFTED_BY_TOKENS
from loraloom.protocols.family_card import FamilyCard, TextTensor

CARD = FamilyCard(
    takes="FLUX.2 klein base, and the distilled klein for generation: diffusers folders, hub ids, single .safetensors "
    "checkpoints",
    base="black-forest-labs/FLUX.2-klein-base-4B",
    size_px=1024,
    # 500 of the prompt and two places; the chat template has twelve tokens of the 512.
    text_tokens={"text_encoder": 502},
    text_tensors={"text": TextTensor(shape=(512, 7680))},
    licence="Apache-2.0 for klein of 4 billion parameters; the 9 billion ones have a non-commercial licence",
    gaps=(
        "A checkpoint in one file takes encoders, VAE and configs from a diffusers folder or hub id (--model-config).",
        "FLUX.2 dev is refused: its text encoder is another one.",
    ),
    configs={
        "transformer/config.json": {
            "_class_name": "Flux2Transformer2DModel",
            "attention_head_dim": 128,
            "axes_dims_rope": [32, 32, 32, 32],
            "eps": 1e-06,
            "guidance_embeds": False,
            "in_channels": 128,
            "joint_attention_dim": 7680,
            "mlp_ratio": 3.0,
            "num_attention_heads": 24,
            "num_layers": 5,
            "num_single_layers": 20,
            "patch_size": 1,
            "rope_theta": 2000,
            "timestep_guidance_channels": 256,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKLFlux2",
            "batch_norm_eps": 0.0001,
            "batch_norm_momentum": 0.1,
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "force_upcast": True,
            "latent_channels": 32,
            "layers_per_block": 2,
            "patch_size": [2, 2],
            "sample_size": 1024,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "use_post_quant_conv": True,
            "use_quant_conv": True,
        },
        "text_encoder/config.json": QWEN3_4B,
        "scheduler/scheduler_config.json": SHIFTED_BY_TOKENS,
    },
)
