"""A random-weight model of the Stable Diffusion 1 layout, about a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder that `from_pretrained` reads. The model is not trained; tests and
benchmarks use it to run the real loading code.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from loraloom.utils.atomic_files import write_text


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
    kind: Any = AutoencoderKL  # its annotations name tuples of one
    vae = kind(
        block_out_channels=vae_widths,
        norm_num_groups=groups,
        latent_channels=4,
        layers_per_block=layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * len(vae_widths),
        up_block_types=("UpDecoderBlock2D",) * len(vae_widths),
    )
    _calm(vae)
    tokenizer = _byte_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(_text_config(tokenizer, text_width, text_layers))
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


def _text_config(tokenizer: Any, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def _calm(vae: AutoencoderKL) -> None:
    """Make random weights encode with small variance and at unit scale, as trained ones do, not mostly noise."""
    assert vae.quant_conv is not None
    channels = vae.config["latent_channels"]
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = -12.0  # pyright: ignore[reportOptionalSubscript] - log-variance
    size_px = 8 * 2 ** (len(vae.config["block_out_channels"]) - 1)
    pixels_bchw = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, size=(size_px, size_px))
    mean_bchw = vae.encode(pixels_bchw, return_dict=False)[0].mean
    vae.quant_conv.bias[:channels] -= mean_bchw.mean(dim=(0, 2, 3))  # pyright: ignore[reportOptionalSubscript]
    vae.register_to_config(scaling_factor=float(1 / mean_bchw.std()))


def _byte_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of single bytes without merges: one token per byte of any text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    # Unprintable bytes are at code points from 256 up, as in CLIP's vocabulary.
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.json", json.dumps({word: index for index, word in enumerate(words)}))
    write_text(folder / "merges.txt", "#version: 0.2\n")
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77)
