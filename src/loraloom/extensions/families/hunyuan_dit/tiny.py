"""A random-weight model of the HunyuanDiT layout, fewer than a million parameters, made in seconds.

In: a folder and a seed. Out: a diffusers folder with all that `from_pretrained` reads. It has learned nothing; it exists
so that every path runs in tests through the real loading code.
"""

import string
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import BertConfig, BertModel, T5EncoderModel
from transformers.models.bert.tokenization_bert import BertTokenizer

from loraloom.extensions.families._diffusers.tiny_t5 import t5_tokenizer, tiny_t5
from loraloom.extensions.families.hunyuan_dit.limits import BETA_END

CHINESE = "随机生成一张图片"
KOREAN = "강아지가소파위에앉있다거실주방침욕"
WIDTH = 32


def build_tiny(folder: Path, *, seed: int = 0, old: bool = False, letters: str = CHINESE + KOREAN) -> Path:
    """Write the model and return its folder.

    Args:
        folder: Where to save; created.
        seed: The seed of the random weights.
        old: The layout of version 1.1, with image size and style conditions; else that of version 1.2.
        letters: What the second tokenizer knows beside ASCII. The first knows those that are Chinese, as the real one.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = bert_tokenizer(letters), t5_tokenizer(letters)
    transformer, vae = _transformer(old), _vae()
    text_encoder, text_encoder_2 = _text_encoders(len(tokenizer), len(tokenizer_2))
    torch.random.set_rng_state(torch_state)
    scheduler: Any = DDPMScheduler(
        beta_start=0.00085,
        beta_end=BETA_END[old],
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    pipeline: Any = HunyuanDiTPipeline
    pipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder)
    return folder


def _transformer(old: bool) -> HunyuanDiT2DModel:
    kind: Any = HunyuanDiT2DModel
    return kind(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        activation_fn="gelu-approximate",
        sample_size=8,
        hidden_size=WIDTH,
        num_layers=4,
        mlp_ratio=2.0,
        learn_sigma=True,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        text_len=77,
        text_len_t5=256,
        use_style_cond_and_image_meta_size=old,
    )


def _vae() -> AutoencoderKL:
    kind: Any = AutoencoderKL
    vae = kind(
        block_out_channels=(16, 16, 16, 32),
        norm_num_groups=8,
        latent_channels=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    _calm(vae)
    return vae


def _text_encoders(num_ids: int, num_ids_2: int) -> tuple[BertModel, T5EncoderModel]:
    text_encoder = BertModel(
        BertConfig(
            vocab_size=num_ids,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=77,
        )
    )
    return text_encoder, tiny_t5(num_ids_2, WIDTH)


def bert_tokenizer(letters: str) -> BertTokenizer:
    """WordPiece over single letters: lower case, as the real one, which knows English and Chinese and no Korean."""
    known = [*string.ascii_lowercase, *string.digits]
    ideographs = [letter for letter in dict.fromkeys(letters) if "\u4e00" <= letter <= "\u9fff"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *ideographs]
    words += [*known, *(f"##{letter}" for letter in known)]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=77)


@torch.no_grad()
def _calm(vae: AutoencoderKL) -> None:
    """Let random weights encode surely and at unit scale, as trained ones do: otherwise latents are mostly noise."""
    assert vae.quant_conv is not None
    channels = vae.config["latent_channels"]
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = -12.0  # pyright: ignore[reportOptionalSubscript] - log-variance
    pixels_bchw = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, size=(64, 64))
    mean_bchw = vae.encode(pixels_bchw, return_dict=False)[0].mean
    vae.quant_conv.bias[:channels] -= mean_bchw.mean(dim=(0, 2, 3))  # pyright: ignore[reportOptionalSubscript]
    vae.register_to_config(scaling_factor=float(1 / mean_bchw.std()))
