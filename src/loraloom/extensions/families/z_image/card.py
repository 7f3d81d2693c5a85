"""What `loraloom families` says of Z-Image, with the configs of the base."""

from loraloom.extensions.families._flow.usual_parts import QWEN3_4B, VAE_OF_FLUX
from loraloom.protocols.family_card import FamilyCard, TextTensor

CARD = FamilyCard(
    takes="Z-Image, and Z-Image-Turbo for generation: diffusers folders, hub ids, single .safetensors checkpoints",
    base="Tongyi-MAI/Z-Image",
    size_px=1024,
    # 504 of the prompt and two places; the chat template has eight tokens of the 512.
    text_tokens={"text_encoder": 506},
    text_tensors={"text": TextTensor(shape=(128, 2560))},
    licence="Apache-2.0",
    gaps=(
        "A checkpoint in one file takes encoders, VAE and configs from a diffusers folder or hub id (--model-config).",
        "Turbo is recognised by its name: its configs do not say that it is distilled.",
    ),
    configs={
        "transformer/config.json": {
            "_class_name": "ZImageTransformer2DModel",
            "all_f_patch_size": [1],
            "all_patch_size": [2],
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "cap_feat_dim": 2560,
            "dim": 3840,
            "in_channels": 16,
            "n_heads": 30,
            "n_kv_heads": 30,
            "n_layers": 30,
            "n_refiner_layers": 2,
            "norm_eps": 1e-05,
            "qk_norm": True,
            "rope_theta": 256.0,
            "t_scale": 1000.0,
        },
        "vae/config.json": VAE_OF_FLUX,
        "text_encoder/config.json": QWEN3_4B,
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 6.0,
            "use_dynamic_shifting": False,
        },
    },
)
