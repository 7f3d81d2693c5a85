"""What `loraloom families` says of Stable Diffusion 1.x and 2.x, with the configs of version 1.5."""

from loraloom.protocols.family_card import FamilyCard, TextTensor

CARD = FamilyCard(
    takes="Stable Diffusion 1.x and 2.x: diffusers folders, hub ids, single .safetensors checkpoints",
    base="stable-diffusion-v1-5/stable-diffusion-v1-5",
    size_px=512,
    text_tokens={"text_encoder": 77},
    text_tensors={"hidden": TextTensor(shape=(1, 77, 768))},
    licence="CreativeML Open RAIL-M: commercial use allowed, with a list of forbidden uses",
    readers={
        "diffusers": "diffusers (pipeline.load_lora_weights), peft",
        "kohya": "A1111, ComfyUI, Forge, sd-scripts",
    },
    gaps=("Inpainting, depth and instruct-pix2pix UNets are refused: they take more than latents.",),
    configs={
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "in_channels": 4,
            "layers_per_block": 2,
            "out_channels": 4,
            "sample_size": 64,
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "latent_channels": 4,
            "layers_per_block": 2,
            "sample_size": 512,
            "scaling_factor": 0.18215,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
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
        "scheduler/scheduler_config.json": {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
        },
    },
)
