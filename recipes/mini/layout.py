"""The modules of `mini`: the layout of Stable Diffusion 1 with small widths.

Out: parts with random weights, of the classes that `from_pretrained` reads. Latents have 4 channels, and 8 pixels per
latent along each side.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from recipes.mini.bank import States
from recipes.mini.data import SIZE_PX

LATENT_CHANNELS = 4
WINDOW_TOKENS = 77
TEXT_WIDTH = 128
NUM_TIMESTEPS = 1000
EMBEDDING_STD = 0.3
"""Standard deviation of token and position embeddings; with CLIP's 0.02 Adam's first steps would erase the positions."""


def make_autoencoder() -> Any:
    """1.7 million parameters, pixels (b, 3, 256, 256) to latents (b, 4, 32, 32)."""
    kind: Any = AutoencoderKL  # its annotations name tuples of one
    widths = (16, 32, 64, 96)
    return kind(
        block_out_channels=widths, layers_per_block=1, latent_channels=LATENT_CHANNELS, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
        sample_size=SIZE_PX, scaling_factor=1.0,
    )  # fmt: skip


def make_denoiser() -> Any:
    """11 million parameters, most of them at 8 x 8 latents, where attention is cheap and global."""
    kind: Any = UNet2DConditionModel
    return kind(
        sample_size=SIZE_PX // 8, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, layers_per_block=1,
        block_out_channels=(32, 64, 192), norm_num_groups=8, attention_head_dim=4, cross_attention_dim=TEXT_WIDTH,
        transformer_layers_per_block=(1, 1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


class _EnoughError(Exception):
    """Ends a forward pass once the required features are computed."""


def deep_parts(denoiser: Any) -> nn.ModuleList:
    """The blocks of `make_denoiser` at 8 x 8: with global attention and most of the cross-attention."""
    return nn.ModuleList([denoiser.down_blocks[-1], denoiser.mid_block, denoiser.up_blocks[0]])


def deep_features(denoiser: Any, latents_bchw: Tensor, timesteps_b: Tensor, states: States) -> Tensor:
    """(b, c, 8, 8) features of the deep parts for latents (b, 4, 32, 32); the rest of the pass is skipped."""
    features: list[Tensor] = []

    def keep(module: Any, given: Any, answer: Any) -> None:
        features.append(answer[0])
        raise _EnoughError

    handle = denoiser.up_blocks[0].attentions[-1].register_forward_hook(keep)
    try:
        denoiser(
            latents_bchw, timesteps_b, encoder_hidden_states=states.hidden_bld, encoder_attention_mask=states.mask_bl
        )
    except _EnoughError:
        pass
    finally:
        handle.remove()
    return features[0]


def make_scheduler() -> Any:
    """Velocities, zero signal at the last step (Lin et al. 2024): otherwise white grounds are tinted."""
    kind: Any = DDIMScheduler
    return kind(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        steps_offset=1, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        num_train_timesteps=NUM_TIMESTEPS,
    )  # fmt: skip


def make_text_encoder(tokenizer: Any) -> Any:
    """0.9 million parameters and a row for each token; CLIP's causal transformer with a window of 77."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=WINDOW_TOKENS, projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    for name, parameter in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(parameter, std=EMBEDDING_STD)
        elif name.endswith("position_embedding.weight"):
            with torch.no_grad():
                parameter.copy_(sinusoids(*parameter.shape) * (EMBEDDING_STD * 2**0.5))
    return encoder


def sinusoids(count: int, width: int) -> Tensor:
    """(count, width) float32 position embeddings of Vaswani et al. 2017 (3.5), sines before cosines; mean square 1/2.

    With them "n tokens back" is one linear map for all positions; random rows would have to learn one for each.
    """
    rates = 10_000 ** -(torch.arange(width // 2) / (width // 2))
    angles = torch.arange(count)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
