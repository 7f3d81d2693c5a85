"""A random-weight model of the FLUX.2 klein layout, below a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests and benchmarks through the real loading code.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Qwen3ForCausalLM

from loraloom.extensions.families._flow.tiny_qwen import qwen_tokenizer, tiny_qwen
from loraloom.extensions.families.flux2_klein.source import LAYERS

WIDTH, TEXT_WIDTH = 32, 16


def build_tiny(folder: Path, *, seed: int = 0, distilled: bool = False) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Where to save; created.
        seed: Seed of the random weights.
        distilled: What model_index.json says.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = Flux2Transformer2DModel
        transformer = kind(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=WIDTH // 8,
            joint_attention_dim=len(LAYERS) * TEXT_WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        )
        vae = _vae()
        tokenizer = qwen_tokenizer()
        text_encoder = tiny_qwen(Qwen3ForCausalLM, TEXT_WIDTH, max(LAYERS), len(tokenizer))
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline: Any = Flux2KleinPipeline
    pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


@torch.no_grad()
def _vae() -> Any:
    """A VAE of small variance whose batch norm has seen its own latents."""
    kind: Any = AutoencoderKLFlux2
    vae = kind(
        block_out_channels=(16, 16, 16, 16),
        norm_num_groups=8,
        latent_channels=4,
        layers_per_block=1,
        sample_size=64,
    )
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -12.0  # log-variance
    pixels_bchw = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, size=(64, 64))
    mean_bchw = torch.nn.functional.pixel_unshuffle(vae.encode(pixels_bchw, return_dict=False)[0].mean, 2)
    vae.bn.running_mean.copy_(mean_bchw.mean(dim=(0, 2, 3)))
    vae.bn.running_var.copy_(mean_bchw.var(dim=(0, 2, 3)))
    return vae.eval()
