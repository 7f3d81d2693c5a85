"""A random-weight model of the Stable Diffusion 3 layout, far below a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests and benchmarks through the real loading code.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModelWithProjection

from loraloom.extensions.families._diffusers.tiny_t5 import t5_tokenizer, tiny_t5
from loraloom.extensions.families._ldm.tiny_parts import byte_tokenizer, text_config, tiny_vae

WIDTH = 32
HALF = 16
"""Width of each CLIP encoder: both side by side are as wide as T5."""


def build_tiny(folder: Path, *, seed: int = 0, version: str = "3.5", t5: bool = True) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Where to save; created.
        seed: Seed of the random weights.
        version: `3`, or `3.5` with a second attention of the image in the first block, and normalised queries and keys.
        t5: With the third text encoder, or with an empty entry for it.
    """
    new = version == "3.5"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = SD3Transformer2DModel
        transformer = kind(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=WIDTH // 8,
            joint_attention_dim=WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=2 * HALF,
            pos_embed_max_size=24,
            dual_attention_layers=(0,) if new else (),
            qk_norm="rms_norm" if new else None,
        )
        vae = tiny_vae((16, 16, 16, 16), 8, 1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06)
        tokenizers = [byte_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
        acts = ("quick_gelu", "gelu")
        encoders = [
            CLIPTextModelWithProjection(text_config(tokenizer, HALF, 2, projection_dim=HALF, hidden_act=act))
            for tokenizer, act in zip(tokenizers, acts, strict=True)
        ]
        tokenizer_3 = t5_tokenizer("") if t5 else None
        third = tiny_t5(len(tokenizer_3), WIDTH) if tokenizer_3 else None
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline: Any = StableDiffusion3Pipeline
    pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizers[0],
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizers[1],
        text_encoder_3=third,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)
    return folder
