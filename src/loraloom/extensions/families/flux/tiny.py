"""A random-weight model of the FLUX.1 layout, far below a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests and benchmarks through the real loading code.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModel

from loraloom.extensions.families._diffusers.tiny_t5 import t5_tokenizer, tiny_t5
from loraloom.extensions.families._ldm.tiny_parts import byte_tokenizer, text_config, tiny_vae

WIDTH = 32


def build_tiny(folder: Path, *, seed: int = 0, schnell: bool = False) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Where to save; created.
        seed: Seed of the random weights.
        schnell: The layout of schnell: no guidance input, times not shifted; else that of dev.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = FluxTransformer2DModel
        transformer = kind(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=WIDTH // 8,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=not schnell,
            axes_dims_rope=(4, 2, 2),
        )
        vae = tiny_vae(
            (16, 16, 16, 16), 8, 1, sample_size=64, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False
        )
        tokenizer, tokenizer_2 = byte_tokenizer(folder / "tokenizer"), t5_tokenizer("")
        text_encoder = CLIPTextModel(text_config(tokenizer, WIDTH, 2))
        text_encoder_2 = tiny_t5(len(tokenizer_2), WIDTH)
    shifting: dict[str, Any] = {"shift": 1.0} if schnell else {"shift": 3.0, "use_dynamic_shifting": True}
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**shifting)
    pipeline: Any = FluxPipeline
    pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder)
    return folder
