"""Whether the files of a model are Stable Diffusion 3, and its configs, checked.

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
    one_of,
    or_null,
    whole,
)
from loraloom.extensions.families._diffusers.t5 import check_t5
from loraloom.extensions.families._flow.source import (
    IN_ONE_FILE,
    Kind,
    is_called,
    read_configs,
    refuse_misfits,
)
from loraloom.extensions.families._ldm.limits import check_text_encoder
from loraloom.extensions.families.sd3.lora_format import TENSORS
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

CLASS = "SD3Transformer2DModel"
T5_PART = "text_encoder_3"

TRANSFORMER: Mapping[str, Rule] = {
    "_class_name": one_of(CLASS),
    "sample_size": whole(1, 1024),
    "patch_size": whole(2, 2),
    "in_channels": whole(1, 64),
    "out_channels": or_null(whole(1, 64)),
    "num_layers": whole(1, 200),
    "attention_head_dim": whole(1, 1024),
    "num_attention_heads": whole(1, 256),
    "joint_attention_dim": whole(1, MAX_WIDTH),
    "caption_projection_dim": whole(1, MAX_WIDTH),
    "pooled_projection_dim": whole(1, MAX_WIDTH),
    "pos_embed_max_size": whole(1, 1024),
    "qk_norm": or_null(one_of("rms_norm", "layer_norm")),
}
COMPONENTS = {
    "transformer": {CLASS},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModelWithProjection"},
    "text_encoder_2": {"CLIPTextModelWithProjection"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "tokenizer_2": {"CLIPTokenizer", "CLIPTokenizerFast"},
}
T5_COMPONENTS = {T5_PART: {"T5EncoderModel"}, "tokenizer_3": {"T5Tokenizer", "T5TokenizerFast"}}
UNUSED = {"scheduler", "image_encoder", "feature_extractor"}


def _base_of(files: ModelFiles) -> str:
    """Hub id of the model that a checkpoint in one file is of, by its names."""
    names = files.tensor_names()
    if any(name.endswith("joint_blocks.37.x_block.mlp.fc1.weight") for name in names):
        return f"stabilityai/stable-diffusion-3.5-large{'-turbo' if is_called(files, 'turbo') else ''}"
    if any(name.endswith("x_block.attn2.qkv.weight") for name in names):
        return "stabilityai/stable-diffusion-3.5-medium"
    return "stabilityai/stable-diffusion-3-medium-diffusers"


KIND = Kind(
    title="Stable Diffusion 3",
    denoiser=CLASS,
    native=("joint_blocks.0.x_block.attn.qkv.weight", "y_embedder.mlp.0.weight"),
    expected=f"an {CLASS} with two CLIP text encoders and T5",
    base=lambda files: _base_of(files),
    tensors=TENSORS,
    encoders={
        "text_encoder": IN_ONE_FILE["clip_l"],
        "text_encoder_2": IN_ONE_FILE["clip_g"],
        T5_PART: IN_ONE_FILE["t5"],
    },
)


def has_t5(files: ModelFiles) -> bool:
    """Whether T5 is read: the model has it, and the user did not leave it out.

    A folder says that it has none by an empty entry of its model_index.json; a folder that only lacks the files is incomplete.
    """
    if not files.options.get("t5", True):
        return False
    index = files.config("model_index.json") if files.has("model_index.json") else {}
    return index.get(T5_PART, "") not in (None, [None, None])


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or does not fit the others.
    """
    t5 = has_t5(files)
    configs = read_configs(
        files,
        KIND,
        ["transformer", "vae", "text_encoder", "text_encoder_2"],
        pipeline="StableDiffusion3Pipeline",
        components=COMPONENTS | T5_COMPONENTS if t5 else COMPONENTS,
        unused=UNUSED if t5 else UNUSED | set(T5_COMPONENTS),
    )
    check_transformer(configs["transformer"])
    check_vae(configs["vae"])
    for folder in ("text_encoder", "text_encoder_2"):
        configs[folder] = check_text_encoder(configs[folder], folder)
    if t5:
        if not files.has(f"{T5_PART}/config.json"):
            raise UserError(
                f"the model lacks {T5_PART}/config.json",
                got=str(files.folder),
                fix="point to a complete diffusers folder, or leave T5 out by --model-option t5=false",
            )
        configs[T5_PART] = files.config(f"{T5_PART}/config.json")
        check_t5(configs[T5_PART], T5_PART)
    _check_together(configs)
    return configs


def check_transformer(config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a denoiser config whose numbers are out of range or do not fit together."""
    where = "transformer/config.json"
    check_config(config, TRANSFORMER, where)
    layers = config.get("num_layers", 18)
    dual = config.get("dual_attention_layers") or []
    if dual:
        each(whole(0, layers - 1), layers)(dual, f"{where}: dual_attention_layers")
    width = config.get("attention_head_dim", 64) * config.get("num_attention_heads", 18)
    if config.get("caption_projection_dim", 1152) != width:
        raise UserError(
            f"{where}: caption_projection_dim",
            got=config.get("caption_projection_dim"),
            expected=f"num_attention_heads x attention_head_dim ({width})",
        )


def _check_together(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `UserError` unless the parts of a model fit each other; names both parts."""
    denoiser, first, second = (configs[name] for name in ("transformer", "text_encoder", "text_encoder_2"))
    pooled = int(first.get("projection_dim") or 512) + int(second.get("projection_dim") or 512)
    latents = configs["vae"].get("latent_channels", 4)
    pairs = [
        ("in_channels", denoiser.get("in_channels", 16), "the VAE's latent_channels", latents),
        ("out_channels", denoiser.get("out_channels") or latents, "the VAE's latent_channels", latents),
        (
            "pooled_projection_dim",
            denoiser.get("pooled_projection_dim", 2048),
            "the sum of projection_dim of both CLIP text encoders",
            pooled,
        ),
    ]
    reads = denoiser.get("joint_attention_dim", 4096)
    if T5_PART in configs:
        pairs.append(("joint_attention_dim", reads, f"{T5_PART}: d_model", configs[T5_PART].get("d_model", 512)))
    refuse_misfits(pairs)
    widths = int(first.get("hidden_size", 512)) + int(second.get("hidden_size", 512))
    if widths > reads:
        raise UserError(
            "transformer/config.json: joint_attention_dim",
            got=reads,
            expected=f"at least the sum of hidden_size of both CLIP text encoders ({widths})",
            fix="these parts are of different models: take all parts from one",
        )
