"""A random-weight model of the Stable Diffusion XL layout, below a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests and benchmarks through the real loading code.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from loraloom.extensions.families._ldm.tiny_parts import byte_tokenizer, text_config, tiny_vae

WIDTHS = (16, 16, 32)
GROUPS = 8
TIME_WIDTH = 8


def build_tiny(
    folder: Path,
    *,
    seed: int = 0,
    text_widths: tuple[int, int] = (32, 48),
    sample_size: int = 8,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Folder to write; created if missing.
        seed: Seed of the random weights.
        text_widths: Hidden widths of both text encoders, of two layers each.
        sample_size: Default side in latents.
        prediction_type: `epsilon` or `v_prediction`.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    kind: Any = UNet2DConditionModel  # its annotations name tuples of one
    unet = kind(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=WIDTHS,
        norm_num_groups=GROUPS,
        attention_head_dim=(2, 2, 4),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        cross_attention_dim=sum(text_widths),
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_WIDTH + text_widths[1],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = tiny_vae((16, 16, 16, 16), GROUPS, 1, force_upcast=True)
    tokenizer = byte_tokenizer(folder / "tokenizer")
    tokenizer_2 = byte_tokenizer(folder / "tokenizer_2", pad_token="!")
    text_encoder = CLIPTextModel(text_config(tokenizer, text_widths[0], 2))
    text_encoder_2 = CLIPTextModelWithProjection(
        text_config(tokenizer_2, text_widths[1], 2, projection_dim=text_widths[1], hidden_act="gelu")
    )
    torch.random.set_rng_state(torch_state)
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline: Any = StableDiffusionXLPipeline
    pipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
