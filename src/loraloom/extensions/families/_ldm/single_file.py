"""A single checkpoint as people download it: configs that are known here, a tokenizer from elsewhere, what its names say.

In: files with a checkpoint and perhaps a folder that the user named. Out: files with a whole folder of configs and tokenizers.
A checkpoint carries neither; its kind is recognized by the names and shapes in its header.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraloom.extensions.families._ldm.known_configs import configs_for
from loraloom.extensions.families._ldm.layout import kind_of
from loraloom.models.files import cache_folder
from loraloom.protocols.model import ModelFiles
from loraloom.utils.atomic_files import sha256_bytes, whole_directory, write_bytes, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_header
from loraloom.utils.untrusted import MAX_TOKENIZER_BYTES, is_file, read_bytes

TOKENIZER_FILES = ("vocab.json", "merges.txt")
_CROSS_ATTENTION = ".attn2.to_k.weight"


def complete(files: ModelFiles, default: str) -> ModelFiles:
    """The same files with configs and tokenizers.

    A folder that the user named is taken as it is when it has configs; one with CLIP's tokenizer alone is enough. Without
    one the tokenizer of the hub model `default` is taken, from the hub's cache where it is there.

    Raises:
        UserError: No tokenizer can be found.
    """
    if files.single_file is None or files.has("unet/config.json"):
        return files
    tokenizer = _tokenizer_of(files, default)
    kind, width = kind_of(files), _text_width(files)
    configs, paddings = configs_for(kind, width)
    contents = [
        read_bytes(tokenizer / name, f"{name} of the tokenizer", max_bytes=MAX_TOKENIZER_BYTES)
        for name in TOKENIZER_FILES
    ]
    total = sha256_bytes(json.dumps([configs, paddings], sort_keys=True).encode() + b"".join(contents))
    folder = cache_folder("configs") / total[:32]
    if not is_file(folder / "model_index.json"):
        with whole_directory(folder) as target:
            for name, config in configs.items():
                (target / name).parent.mkdir(exist_ok=True)
                write_json(target / name, config)
            for name, padding in paddings.items():
                (target / name).mkdir()
                write_json(target / name / "tokenizer_config.json", _tokenizer_config(padding))
                for file, content in zip(TOKENIZER_FILES, contents, strict=True):
                    write_bytes(target / name / file, content)
    return files.at(folder)


def schedule_config(files: ModelFiles, config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's config of a model, with what the user and a single checkpoint say of it.

    A checkpoint that predicts velocity may hold an empty tensor `v_pred`, and `ztsnr` where its last training step holds no
    signal (Lin et al. 2024): they are the weights' own word, whatever a config says.

    Raises:
        UserError: A checkpoint of Stable Diffusion 2 for which nobody says what it predicts: there are both kinds.
    """
    names, source = files.tensor_names(), files.source
    said = dict(config)
    if "v_pred" in names:
        said["prediction_type"] = "v_prediction"
    if "ztsnr" in names:
        said["rescale_betas_zero_snr"] = True
    if source.prediction_type != "auto":
        said["prediction_type"] = source.prediction_type
    elif "v_pred" not in names and _made_here(files) and _text_width(files) == 1024:
        raise UserError(
            "a checkpoint of Stable Diffusion 2 does not say what its UNet predicts",
            got=files.source.location,
            expected="v_prediction (768 px models) or epsilon (512 px base models)",
            fix="set objective.prediction_type for `train`, --prediction-type for `generate`",
        )
    return said


def _made_here(files: ModelFiles) -> bool:
    """Whether `complete` made the configs."""
    return files.folder is not None and files.folder.parent == cache_folder("configs")


def _tokenizer_of(files: ModelFiles, default: str) -> Path:
    """The folder of CLIP's tokenizer files."""
    if files.folder is not None:
        places = [files.folder, files.path("tokenizer")]
    else:
        try:
            places = [files.with_configs(default).path("tokenizer")]
        except UserError as error:
            raise UserError(
                f"a checkpoint carries no tokenizer: {error.what}",
                got=files.source.location,
                fix=f"add --model-config FOLDER: any folder with CLIP's {' and '.join(TOKENIZER_FILES)} will do, such as "
                f"comfy/sd1_tokenizer of ComfyUI; or {error.fix}",
            ) from None
    for place in places:
        if all(is_file(place / name) for name in TOKENIZER_FILES):
            return place
    raise UserError(
        "no configs and no tokenizer in this folder",
        got=str(places[0]),
        expected=f"a diffusers model of the same kind, or CLIP's {' and '.join(TOKENIZER_FILES)}",
        fix="name another --model-config",
    )


def _tokenizer_config(padding: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": padding,
    }


def _text_width(files: ModelFiles) -> int | None:
    """Width of the prompt embeddings that a checkpoint's UNet reads; None without cross-attention or checkpoint."""
    if files.single_file is None:
        return None
    for name, entry in read_header(files.single_file).tensors.items():
        if name.endswith(_CROSS_ATTENTION) and len(entry.shape) == 2:
            return entry.shape[1]
    return None
