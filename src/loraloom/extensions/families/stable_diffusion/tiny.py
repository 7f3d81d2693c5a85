"""A random-weight model of the Stable Diffusion 1 layout, about a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder that `from_pretrained` reads. The model is not trained; tests and
benchmarks use it to run the real loading code.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel

from loraloom.extensions.families._ldm.tiny_parts import byte_tokenizer, text_config, tiny_vae


def build_tiny(
    folder: Path,
    *,
    seed: int = 0,
    widths: tuple[int, ...] = (32, 64),
    layers_per_block: int = 1,
    text_width: int = 64,
    text_layers: int = 2,
    vae_widths: tuple[int, ...] = (16, 32, 32, 32),
    sample_size: int = 8,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Folder to write; created if missing.
        seed: Seed of the random weights.
        widths: UNet channels of each level; all levels except the last have cross-attention.
        layers_per_block: Number of ResNets of a level, in UNet and VAE.
        text_width, text_layers: Hidden width and depth of the text encoder.
        vae_widths: VAE channels of each level; pixels per latent = 2 ** (levels - 1).
        sample_size: Default side of an image, in latents.
        prediction_type: Prediction type of the schedule.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    groups = min(8, *widths, *vae_widths)
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        layers_per_block=layers_per_block,
        block_out_channels=widths,
        norm_num_groups=groups,
        attention_head_dim=4,
        cross_attention_dim=text_width,
        down_block_types=("CrossAttnDownBlock2D",) * (len(widths) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(widths) - 1),
    )
    vae = tiny_vae(vae_widths, groups, layers_per_block)
    tokenizer = byte_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(text_config(tokenizer, text_width, text_layers))
    torch.random.set_rng_state(torch_state)
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline: Any = StableDiffusionPipeline
    pipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
