"""Whether the files of a model are Z-Image, and its configs, checked.

In: files that were resolved. Out: yes or no; or the configs with every number in its range and parts that fit each other.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import (
    MAX_WIDTH,
    Rule,
    check_config,
    check_vae,
    each,
    flag,
    nothing,
    number,
    one_of,
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
from loraloom.extensions.families.z_image.lora_format import TENSORS
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

CLASS = "ZImageTransformer2DModel"

TRANSFORMER: Mapping[str, Rule] = {
    "_class_name": one_of(CLASS),
    "in_channels": whole(1, 64),
    "dim": whole(1, MAX_WIDTH),
    "n_layers": whole(1, 200),
    "n_refiner_layers": whole(1, 32),
    "n_heads": whole(1, 256),
    "n_kv_heads": whole(1, 256),
    "norm_eps": number(1e-12, 1),
    "qk_norm": flag,
    "cap_feat_dim": whole(1, MAX_WIDTH),
    "siglip_feat_dim": nothing,
    "rope_theta": number(1, 1e9),
    "t_scale": number(1000, 1000),
    "all_patch_size": each(whole(2, 2), 1),
    "all_f_patch_size": each(whole(1, 1), 1),
    "axes_lens": each(whole(1, 1 << 16), 3),
}
COMPONENTS = {
    "transformer": {CLASS},
    "vae": {"AutoencoderKL"},
    "text_encoder": CLASSES,
    "tokenizer": TOKENIZERS,
}
UNUSED = {"scheduler"}


KIND = Kind(
    title="Z-Image",
    denoiser=CLASS,
    native=("noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight", "x_pad_token"),
    expected=f"a {CLASS} with a Qwen3 text encoder",
    base=lambda files: f"Tongyi-MAI/Z-Image{'-Turbo' if is_called(files, 'turbo') else ''}",
    tensors=TENSORS,
    encoders={"text_encoder": IN_ONE_FILE["qwen3"]},
)


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or does not fit the others.
    """
    configs = read_configs(
        files,
        KIND,
        ["transformer", "vae", "text_encoder"],
        pipeline="ZImagePipeline",
        components=COMPONENTS,
        unused=UNUSED,
    )
    check_transformer(configs["transformer"])
    check_vae(configs["vae"])
    check_qwen3(configs["text_encoder"], "text_encoder")
    denoiser = configs["transformer"]
    refuse_misfits(
        [
            (
                "in_channels",
                denoiser.get("in_channels", 16),
                "the VAE's latent_channels",
                configs["vae"].get("latent_channels", 4),
            ),
            (
                "cap_feat_dim",
                denoiser.get("cap_feat_dim", 2560),
                "text_encoder: hidden_size",
                configs["text_encoder"].get("hidden_size", 4096),
            ),
        ]
    )
    return configs


def check_transformer(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a denoiser config whose numbers are out of range or do not fit together."""
    where = "transformer/config.json"
    check_config(config, TRANSFORMER, where)
    width, heads = config.get("dim", 3840), config.get("n_heads", 30)
    if width % heads:
        raise UserError(f"{where}: dim", got=width, expected=f"a multiple of n_heads ({heads})")
    check_rotary(where, config.get("axes_dims", [32, 48, 48]), width // heads, axes=3)
    if len(config.get("axes_lens", [1024, 512, 512])) != 3:
        raise UserError(f"{where}: axes_lens", got=config["axes_lens"], expected="three numbers, one for each axis")
