"""A random-weight model of the Z-Image layout, below a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests and benchmarks through the real loading code.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Qwen3Model

from loraloom.extensions.families._flow.tiny_qwen import qwen_tokenizer, tiny_qwen
from loraloom.extensions.families._ldm.tiny_parts import tiny_vae

WIDTH = 32


def build_tiny(folder: Path, *, seed: int = 0) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Where to save; created.
        seed: Seed of the random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = ZImageTransformer2DModel
        transformer = kind(
            in_channels=4,
            dim=WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=WIDTH // 8,
            n_kv_heads=WIDTH // 8,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 2, 2],
            axes_lens=[1536, 64, 64],
        )
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(token)  # the library leaves them empty, or zero
        vae = tiny_vae(
            (16, 16, 16, 16), 8, 1, sample_size=64, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False
        )
        tokenizer = qwen_tokenizer()
        text_encoder = tiny_qwen(Qwen3Model, WIDTH, 2, len(tokenizer))
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline: Any = ZImagePipeline
    pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder
