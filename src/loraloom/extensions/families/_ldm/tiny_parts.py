"""Parts of small random models that families of UNet and CLIP build for trials and tests.

In: widths. Out: an AutoencoderKL, a text encoder's config, a tokenizer of single bytes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTextConfig
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from loraloom.utils.atomic_files import write_text


def tiny_vae(
    widths: tuple[int, ...], groups: int, layers_per_block: int, *, latent_channels: int = 4, **values: Any
) -> AutoencoderKL:
    """An AutoencoderKL of random weights whose latents have unit scale; `values` are further keys of the config."""
    kind: Any = AutoencoderKL  # its annotations name tuples of one
    vae = kind(
        block_out_channels=widths,
        norm_num_groups=groups,
        latent_channels=latent_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        **values,
    )
    _normalize(vae)
    return vae


def text_config(tokenizer: Any, width: int, layers: int, **values: Any) -> CLIPTextConfig:
    """A CLIP text encoder of four heads for a tokenizer; `values` are further keys of the config."""
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
        **values,
    )


@torch.no_grad()
def _normalize(vae: AutoencoderKL) -> None:
    """Make random weights encode with small variance and at unit scale, as trained ones do, not mostly noise."""
    last: Any = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    channels = vae.config["latent_channels"]
    last.weight[channels:] = 0
    last.bias[channels:] = -12.0  # log-variance
    size_px = 8 * 2 ** (len(vae.config["block_out_channels"]) - 1)
    pixels_bchw = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, size=(size_px, size_px))
    mean_bchw = vae.encode(pixels_bchw, return_dict=False)[0].mean
    last.bias[:channels] -= mean_bchw.mean(dim=(0, 2, 3))
    vae.register_to_config(scaling_factor=float(1 / mean_bchw.std()))


def byte_tokenizer(folder: Path, **values: Any) -> CLIPTokenizer:
    """A CLIP tokenizer of single bytes without merges: one token per byte of any text; `values` are its settings."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    # Unprintable bytes are at code points from 256 up, as in CLIP's vocabulary.
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.json", json.dumps({word: index for index, word in enumerate(words)}))
    write_text(folder / "merges.txt", "#version: 0.2\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77, **values
    )
