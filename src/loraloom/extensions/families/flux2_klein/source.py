"""Whether the files of a model are FLUX.2 klein, and its configs, checked.

In: files that were resolved. Out: yes or no; or the configs with every number in its range and parts that fit each other.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    MAX_WIDTH,
    VAE,
    WIDTHS,
    Rule,
    check_config,
    check_vae,
    each,
    flag,
    number,
    one_of,
    or_null,
    whole,
)
from loraloom.extensions.families._flow.qwen import CLASSES, TOKENIZERS, check_qwen3
from loraloom.extensions.families._flow.source import (
    IN_ONE_FILE,
    Kind,
    check_rotary,
    is_called,
    read_configs,
    refuse_misfits,
)
from loraloom.extensions.families.flux2_klein.lora_format import TENSORS
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

CLASS, PIPELINE = "Flux2Transformer2DModel", "Flux2KleinPipeline"
LAYERS = (9, 18, 27)
"""Hidden states of the text encoder that are read, as in the pipeline."""

TRANSFORMER: Mapping[str, Rule] = {
    "_class_name": one_of(CLASS),
    "patch_size": whole(1, 1),
    "in_channels": whole(4, 1024),
    "out_channels": or_null(whole(4, 1024)),
    "num_layers": whole(1, 200),
    "num_single_layers": whole(1, 200),
    "attention_head_dim": whole(2, 1024),
    "num_attention_heads": whole(1, 256),
    "joint_attention_dim": whole(1, 8 * MAX_WIDTH),
    "timestep_guidance_channels": whole(2, MAX_WIDTH),
    "mlp_ratio": number(0.01, 64),
    "rope_theta": number(1, 1e9),
    "eps": number(1e-12, 1),
    "guidance_embeds": flag,
}
VAE_2: Mapping[str, Rule] = {
    **{key: rule for key, rule in VAE.items() if key not in ("scaling_factor", "shift_factor")},
    "_class_name": one_of("AutoencoderKLFlux2"),
    "decoder_block_out_channels": or_null(WIDTHS),
    "batch_norm_eps": number(1e-12, 1),
    "batch_norm_momentum": number(0, 1),
    "patch_size": each(whole(2, 2), 2),
}
COMPONENTS = {
    "transformer": {CLASS},
    "vae": {"AutoencoderKLFlux2"},
    "text_encoder": CLASSES,
    "tokenizer": TOKENIZERS,
}
UNUSED = {"scheduler"}


KIND = Kind(
    title="FLUX.2 klein",
    denoiser=CLASS,
    native=("double_blocks.0.img_attn.qkv.weight", "double_stream_modulation_img.lin.weight"),
    expected=f"a {CLASS} with a Qwen3 text encoder",
    base=lambda files: f"black-forest-labs/FLUX.2-klein-{'base-' if is_called(files, 'base') else ''}4B",
    tensors=TENSORS,
    encoders={"text_encoder": IN_ONE_FILE["qwen3"]},
)


def is_distilled(files: ModelFiles) -> bool:
    """Whether model_index.json says so."""
    return files.has("model_index.json") and files.config("model_index.json").get("is_distilled") is True


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or does not fit the others.
    """
    configs = read_configs(
        files,
        KIND,
        ["transformer", "vae", "text_encoder"],
        pipeline=PIPELINE,
        components=COMPONENTS,
        unused=UNUSED,
        flags={"is_distilled"},
    )
    check_transformer(configs["transformer"])
    check_vae(configs["vae"], VAE_2)
    check_qwen3(configs["text_encoder"], "text_encoder")
    _check_together(configs)
    return configs


def check_transformer(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a denoiser config whose numbers are out of range or do not fit together."""
    where = "transformer/config.json"
    check_config(config, TRANSFORMER, where)
    head = config.get("attention_head_dim", 128)
    check_rotary(where, config.get("axes_dims_rope", [32, 32, 32, 32]), head, axes=4)
    if config.get("guidance_embeds", True):
        raise UserError(
            f"{where}: guidance_embeds",
            got=True,
            expected="false, as in FLUX.2 klein",
            fix="FLUX.2 dev is another model: its text encoder is not read here",
        )


def _check_together(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` unless the parts of a model fit each other; names both parts."""
    denoiser, text = configs["transformer"], configs["text_encoder"]
    taken = denoiser.get("in_channels", 128)
    if text.get("num_hidden_layers", 32) < max(LAYERS):
        raise UserError(
            "text_encoder/config.json: num_hidden_layers",
            got=text.get("num_hidden_layers"),
            expected=f"at least {max(LAYERS)}: the hidden states {LAYERS} are read",
        )
    refuse_misfits(
        [
            ("in_channels", taken, "4 x the VAE's latent_channels", 4 * configs["vae"].get("latent_channels", 32)),
            ("out_channels", denoiser.get("out_channels") or taken, "in_channels", taken),
            (
                "joint_attention_dim",
                denoiser.get("joint_attention_dim", 15360),
                f"{len(LAYERS)} x text_encoder: hidden_size",
                len(LAYERS) * text.get("hidden_size", 4096),
            ),
        ]
    )
