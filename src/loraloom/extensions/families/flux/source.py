"""Whether the files of a model are FLUX.1, and its configs, checked.

In: files that were resolved. Out: yes or no; or the configs with every number in its range and parts that fit each other.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    MAX_WIDTH,
    Rule,
    check_config,
    check_vae,
    flag,
    one_of,
    or_null,
    whole,
)
from loraloom.extensions.families._diffusers.t5 import check_t5
from loraloom.extensions.families._flow.source import (
    IN_ONE_FILE,
    Kind,
    check_rotary,
    read_configs,
    refuse_misfits,
)
from loraloom.extensions.families._ldm.limits import check_text_encoder
from loraloom.extensions.families.flux.lora_format import TENSORS
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

CLASS = "FluxTransformer2DModel"

TRANSFORMER: Mapping[str, Rule] = {
    "_class_name": one_of(CLASS),
    "patch_size": whole(1, 1),
    "in_channels": whole(4, 1024),
    "out_channels": or_null(whole(4, 1024)),
    "num_layers": whole(1, 200),
    "num_single_layers": whole(1, 200),
    "attention_head_dim": whole(2, 1024),
    "num_attention_heads": whole(1, 256),
    "joint_attention_dim": whole(1, MAX_WIDTH),
    "pooled_projection_dim": whole(1, MAX_WIDTH),
    "guidance_embeds": flag,
}
COMPONENTS = {
    "transformer": {CLASS},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "text_encoder_2": {"T5EncoderModel"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "tokenizer_2": {"T5Tokenizer", "T5TokenizerFast"},
}
GUIDANCE = "guidance_in.in_layer.weight"
UNUSED = {"scheduler", "image_encoder", "feature_extractor"}


def has_guidance(files: ModelFiles) -> bool:
    """Whether a checkpoint in one file is dev's kind, with an input for guidance, or schnell's."""
    return any(name.endswith(GUIDANCE) for name in files.tensor_names())


KIND = Kind(
    title="FLUX.1",
    denoiser=CLASS,
    native=("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "vector_in.in_layer.weight"),
    expected=f"a {CLASS} with a CLIP and a T5 text encoder",
    base=lambda files: f"black-forest-labs/FLUX.1-{'dev' if has_guidance(files) else 'schnell'}",
    tensors=TENSORS,
    encoders={"text_encoder": IN_ONE_FILE["clip_l"], "text_encoder_2": IN_ONE_FILE["t5"]},
)


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or does not fit the others.
    """
    configs = read_configs(
        files,
        KIND,
        ["transformer", "vae", "text_encoder", "text_encoder_2"],
        pipeline="FluxPipeline",
        components=COMPONENTS,
        unused=UNUSED,
    )
    check_transformer(configs["transformer"])
    refuse_other_guidance(files, configs["transformer"])
    check_vae(configs["vae"])
    configs["text_encoder"] = check_text_encoder(configs["text_encoder"])
    check_t5(configs["text_encoder_2"], "text_encoder_2")
    _check_together(configs)
    return configs


def check_transformer(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a denoiser config whose numbers are out of range or do not fit together."""
    where = "transformer/config.json"
    check_config(config, TRANSFORMER, where)
    check_rotary(where, config.get("axes_dims_rope", [16, 56, 56]), config.get("attention_head_dim", 128), axes=3)


def refuse_other_guidance(files: ModelFiles, transformer: Mapping[str, Any]) -> None:
    """Raise `UserError` for dev's checkpoint with schnell's folder, or the other way: their noise levels differ."""
    if files.single_file is None or has_guidance(files) == bool(transformer.get("guidance_embeds", False)):
        return
    kinds = ("schnell", "dev")
    raise UserError(
        f"{files.single_file.name} is of the kind of FLUX.1 {kinds[has_guidance(files)]}",
        got=f"the folder of FLUX.1 {kinds[not has_guidance(files)]}",
        expected=KIND.base(files),
        fix="name the folder or hub id of the same model with --model-config",
    )


def is_distilled(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the model is schnell: no input for guidance, and times that are not shifted."""
    scheduler = configs["scheduler"]
    shifted = scheduler.get("use_dynamic_shifting", False) or scheduler.get("shift", 1.0) != 1.0
    return not configs["transformer"].get("guidance_embeds", False) and not shifted


def _check_together(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` unless the parts of a model fit each other; names both parts."""
    denoiser = configs["transformer"]
    taken, packed = denoiser.get("in_channels", 64), 4 * configs["vae"].get("latent_channels", 4)
    if taken != packed and taken > packed:
        raise UserError(
            "this denoiser takes more than latents, which training does not give it",
            got=f"{taken} input channels, as FLUX.1 Fill, Depth and Canny have",
            expected=f"{packed}: the VAE's latent_channels in patches of 2 x 2",
            fix="train on FLUX.1 dev; the LoRA usually works on both",
        )
    refuse_misfits(
        [
            ("in_channels", taken, "4 x the VAE's latent_channels", packed),
            ("out_channels", denoiser.get("out_channels") or taken, "in_channels", taken),
            (
                "joint_attention_dim",
                denoiser.get("joint_attention_dim", 4096),
                "text_encoder_2: d_model",
                configs["text_encoder_2"].get("d_model", 512),
            ),
            (
                "pooled_projection_dim",
                denoiser.get("pooled_projection_dim", 768),
                "text_encoder: hidden_size",
                configs["text_encoder"].get("hidden_size", 512),
            ),
        ]
    )
