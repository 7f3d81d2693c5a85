"""Whether the files of a model are HunyuanDiT, and its configs, checked.

In: files that were resolved. Out: yes or no; or the configs with every number in its range.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.families._diffusers.limits import check_components, check_schedule, check_vae
from loraloom.extensions.families._diffusers.t5 import check_t5
from loraloom.extensions.families.hunyuan_dit.limits import (
    COMPONENTS,
    UNUSED,
    check_bert,
    check_together,
    check_transformer,
    check_version,
)
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError

PART_FOLDER = {
    "denoiser": "transformer",
    "vae": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
}
_NATIVE = ("mlp_t5.0.weight", "text_embedding_padding")
"""Ends of tensor names that only this model's own checkpoints have."""


def is_hunyuan_dit(files: ModelFiles) -> bool:
    """A `HunyuanDiT2DModel`, or a checkpoint in one file with its tensors (which `check_configs` refuses)."""
    if files.single_file is not None:
        names = files.tensor_names()
        return all(any(name.endswith(end) for name in names) for end in _NATIVE)
    if not files.has("transformer/config.json"):
        return False
    return files.config("transformer/config.json").get("_class_name") == "HunyuanDiT2DModel"


def check_configs(files: ModelFiles) -> dict[str, Mapping[str, Any]]:
    """The configs of all parts and the scheduler, every number in its range.

    Raises:
        UserError: One is missing, cannot be read, says what this family does not have, or belongs to another version.
    """
    if files.single_file is not None:
        raise UserError(
            "HunyuanDiT in one file is not read",
            got=files.single_file.name,
            expected="a diffusers folder",
            fix="use the same version's folder, such as Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        )
    if not is_hunyuan_dit(files):
        raise UserError(
            "this model is not a HunyuanDiT",
            got=_denoiser(files),
            expected="a HunyuanDiT2DModel with a BERT and a T5 text encoder",
        )
    if files.has("pipeline.py"):
        raise UserError(
            "the model comes with a pipeline of its own (pipeline.py), which is not run",
            got=str(files.folder),
            fix="use a model without custom code, or delete that file if the model works without it",
        )
    if files.has("model_index.json"):
        check_components(files.config("model_index.json"), ("HunyuanDiTPipeline",), COMPONENTS, UNUSED)
    configs: dict[str, Mapping[str, Any]] = {
        folder: files.config(f"{folder}/config.json") for folder in PART_FOLDER.values()
    }
    configs["scheduler"] = files.config("scheduler/scheduler_config.json")
    check_transformer(configs["transformer"])
    check_vae(configs["vae"])
    check_bert(configs["text_encoder"])
    check_t5(configs["text_encoder_2"], "text_encoder_2")
    check_schedule(configs["scheduler"])
    check_together(configs)
    check_version(configs["transformer"], configs["scheduler"], files.source.prediction_type)
    return configs


def _denoiser(files: ModelFiles) -> Any:
    for folder in ("transformer", "unet"):
        if files.has(f"{folder}/config.json"):
            return files.config(f"{folder}/config.json").get("_class_name")
    return files.source.location
