"""What the configs of a HunyuanDiT model may say: a range for every number, and what must fit together.

In: configs as JSON holds them. Out: nothing, or a `UserError` with file, key, value and range.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    MAX_VOCABULARY,
    MAX_WIDTH,
    Rule,
    check_config,
    each,
    flag,
    number,
    one_of,
    one_or_each,
    or_null,
    text,
    whole,
)
from loraloom.utils.errors import UserError

CLIP_TOKENS, T5_TOKENS = 77, 256
"""Text length of the two encoders: the denoiser has one learned padding row for each position."""
BETA_END = {True: 0.03, False: 0.018}
"""Whether the version is 1.1 or older (it has style and image size conditions) to the end of its noise schedule."""

TRANSFORMER: Mapping[str, Rule] = {
    "_class_name": one_of("HunyuanDiT2DModel"),
    "num_attention_heads": whole(1, 256),
    "attention_head_dim": whole(4, 1024),
    "in_channels": whole(1, 64),
    "patch_size": whole(1, 16),
    "activation_fn": one_of("gelu-approximate", "gelu", "geglu"),
    "sample_size": whole(1, 1024),
    "hidden_size": whole(1, MAX_WIDTH),
    "num_layers": whole(2, 200),
    "mlp_ratio": number(0.01, 64),
    "learn_sigma": flag,
    "cross_attention_dim": whole(1, MAX_WIDTH),
    "norm_type": text,
    "cross_attention_dim_t5": whole(8, MAX_WIDTH),
    "pooled_projection_dim": whole(1, MAX_WIDTH),
    "text_len": whole(CLIP_TOKENS, CLIP_TOKENS),
    "text_len_t5": whole(T5_TOKENS, T5_TOKENS),
    "use_style_cond_and_image_meta_size": flag,
}

_IDS = or_null(one_or_each(whole(-1, MAX_VOCABULARY), 8))

BERT: Mapping[str, Rule] = {
    "model_type": one_of("bert"),
    "architectures": or_null(each(text, 4)),
    "vocab_size": whole(2, MAX_VOCABULARY),
    "hidden_size": whole(1, MAX_WIDTH),
    "num_hidden_layers": whole(1, 64),
    "num_attention_heads": whole(1, 256),
    "intermediate_size": whole(1, 8 * MAX_WIDTH),
    "hidden_act": one_of("gelu", "gelu_new", "relu", "silu"),
    "hidden_dropout_prob": number(0, 1),
    "attention_probs_dropout_prob": number(0, 1),
    "max_position_embeddings": whole(CLIP_TOKENS, 8192),
    "type_vocab_size": whole(1, 16),
    "initializer_range": number(0, 100),
    "layer_norm_eps": number(1e-12, 1),
    "position_embedding_type": one_of("absolute"),
    "is_decoder": flag,
    "add_cross_attention": flag,
    "pad_token_id": _IDS,
}

COMPONENTS = {
    "transformer": {"HunyuanDiT2DModel"},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"BertModel"},
    "tokenizer": {"BertTokenizer", "BertTokenizerFast"},
    "text_encoder_2": {"T5EncoderModel", "MT5EncoderModel"},
    "tokenizer_2": {"T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer"},
}
UNUSED = {"scheduler", "safety_checker", "feature_extractor"}


def check_transformer(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a denoiser config whose numbers are out of range or do not fit together."""
    where = "transformer/config.json"
    check_config(config, TRANSFORMER, where)
    heads, width = config.get("num_attention_heads", 16), config.get("attention_head_dim", 88)
    if heads * width != config.get("hidden_size", 1152):
        raise UserError(
            f"{where}: hidden_size",
            got=config.get("hidden_size"),
            expected=f"num_attention_heads x attention_head_dim ({heads * width})",
        )
    if width % 4:
        raise UserError(f"{where}: attention_head_dim", got=width, expected="a multiple of 4, for rotary tables")
    if config.get("num_layers", 28) % 2:
        raise UserError(f"{where}: num_layers", got=config["num_layers"], expected="an even number, for long skips")
    if config.get("cross_attention_dim_t5", 2048) % 8:
        raise UserError(
            f"{where}: cross_attention_dim_t5", got=config["cross_attention_dim_t5"], expected="a multiple of 8"
        )
    if not config.get("learn_sigma", True):
        raise UserError(
            f"{where}: learn_sigma", got=False, expected="true, as every published HunyuanDiT", fix="use another model"
        )


def check_bert(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a config of the first text encoder that is out of range."""
    where = "text_encoder/config.json"
    check_config(config, BERT, where)
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    if width % heads:
        raise UserError(f"{where}: hidden_size", got=width, expected=f"a multiple of num_attention_heads ({heads})")


def check_together(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` unless the parts of a model fit each other; names both parts."""
    denoiser, vae = configs["transformer"], configs["vae"]
    pairs = [
        ("in_channels", denoiser.get("in_channels"), "vae: latent_channels", vae.get("latent_channels", 4)),
        (
            "cross_attention_dim",
            denoiser.get("cross_attention_dim", 1024),
            "text_encoder: hidden_size",
            configs["text_encoder"].get("hidden_size", 768),
        ),
        (
            "cross_attention_dim_t5",
            denoiser.get("cross_attention_dim_t5", 2048),
            "text_encoder_2: d_model",
            configs["text_encoder_2"].get("d_model", 512),
        ),
    ]
    for key, got, whose, expected in pairs:
        if got != expected:
            raise UserError(
                f"transformer/config.json: {key}",
                got=got,
                expected=f"{whose} ({expected})",
                fix="these two parts are of different models: take all parts from one",
            )


def check_version(transformer: Mapping[str, Any], scheduler: Mapping[str, Any], prediction_type: str) -> None:
    """Raise `UserError` where the noise schedule is not that of the denoiser's version: it would learn other noise levels.

    Args:
        transformer: Config of the denoiser.
        scheduler: Config of the scheduler.
        prediction_type: What the user set; `auto` believes the scheduler's config.
    """
    where = "scheduler/scheduler_config.json"
    old = bool(transformer.get("use_style_cond_and_image_meta_size", True))
    version = "1.1 or older" if old else "1.2"
    fix = "take the scheduler folder and the transformer folder from one model"
    if scheduler.get("beta_schedule") != "scaled_linear":
        raise UserError(
            f"{where}: beta_schedule", got=scheduler.get("beta_schedule"), expected="scaled_linear", fix=fix
        )
    for key, expected in (("beta_start", 0.00085), ("beta_end", BETA_END[old])):
        got = scheduler.get(key)
        if got is None or abs(got - expected) > 1e-6:
            raise UserError(
                f"{where}: {key} is not that of the transformer, which is of version {version}",
                got=got,
                expected=expected,
                fix=fix,
            )
    said = scheduler.get("prediction_type", "epsilon")
    if prediction_type == "auto" and said != "v_prediction":
        raise UserError(f"{where}: prediction_type", got=said, expected="v_prediction, as every HunyuanDiT", fix=fix)
