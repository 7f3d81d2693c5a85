"""Parts of a diffusers folder: read with their checks, written with their dtype.

In: the files of a model and the class of a part. Out: a module whose weights are all there, finite, and of its config; or a
folder that appears whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import torch
from torch import nn

from loraloom.models.filling import fill, from_files
from loraloom.models.headers import check_finite, check_fit
from loraloom.models.low_bits import BYTES_EACH, LowBits
from loraloom.protocols.model import ModelFiles, Modules
from loraloom.utils.atomic_files import whole_directory, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import TensorInfo, read_header


def load_part(files: ModelFiles, folder: str, kind: Any, empty: Callable[[], nn.Module], **extra: Any) -> nn.Module:
    """The module of a part's folder.

    Args:
        files: The files of the model, a folder.
        folder: The part's folder, such as `transformer`.
        kind: Class of diffusers or transformers with `from_pretrained`.
        empty: Builds the part without memory, as its config describes it.
        extra: Further arguments of `from_pretrained`.

    Raises:
        UserError: Weights that are missing, damaged, not of the config, not finite, or more than this machine holds.
    """
    paths = files.weight_files(folder)  # refuses before anything is read
    entries: dict[str, TensorInfo] = {}
    for path in paths:
        entries.update(read_header(path).tensors)
    with quiet():
        check_fit(folder, entries, empty if entries else None, same_names=True)
    try:
        with quiet():
            module, info = kind.from_pretrained(
                str(files.folder),
                subfolder=folder,
                use_safetensors=True,
                local_files_only=True,
                variant=files.variant,
                output_loading_info=True,
                **extra,
            )
    except Exception as error:  # whatever the libraries make of a file
        lines = str(error).strip().splitlines()
        raise _unreadable(files, folder, lines[0][:300] if lines else type(error).__name__) from error
    if lacking := sorted(info["missing_keys"]):
        # The libraries leave what is missing random, with a warning at most.
        why = f"{len(lacking)} of its weights are missing, the first is {lacking[0]}"
        raise _unreadable(files, folder, why)
    check_finite(folder, module, paths)
    return module


def load_part_small(files: ModelFiles, folder: str, empty: Callable[[], nn.Module], kind: LowBits) -> nn.Module:
    """The module of a part's folder, the linear layers of its blocks in low bits, read one tensor at a time.

    Args:
        files: The files of the model, a folder.
        folder: The part's folder; its files name their tensors as the module does.
        empty: Builds the part without memory, as its config describes it.
        kind: How these layers are stored.

    Raises:
        UserError: As `load_part`.
    """
    entries: dict[str, TensorInfo] = {}
    places: dict[str, Path] = {}
    for path in files.weight_files(folder):
        found = read_header(path).tensors
        entries.update(found)
        places.update(dict.fromkeys(found, path))
    with quiet():
        check_fit(folder, entries, empty, same_names=True, bytes_each=BYTES_EACH[kind])
    return fill(deepcopy(empty()), from_files(places, folder), folder, kind)


def save_folder(
    files: ModelFiles,
    modules: Modules,
    parts: Mapping[str, str],
    copied: Sequence[str],
    folder: Path,
    dtype: torch.dtype,
    *,
    absent: Sequence[str] = (),
) -> None:
    """Write a diffusers folder with the weights as they are now, a missing part read first. It appears whole.

    Args:
        files: The files of the model that was opened.
        modules: Its parts.
        parts: Part to its folder.
        copied: Files and folders beside the parts: configs of the pipeline and scheduler, tokenizers.
        folder: Where to write.
        dtype: The dtype of the written weights.
        absent: Parts of the pipeline that the model was opened without; its model_index.json then says so.
    """
    with whole_directory(folder) as target, quiet():
        for entry in copied:
            found = files.path(entry)
            if found.is_dir():
                copytree(found, target / entry)
            elif found.is_file():
                copyfile(found, target / entry)
        if absent:
            index = json.loads((target / "model_index.json").read_text(encoding="utf-8"))
            write_json(target / "model_index.json", {**index, **{name: [None, None] for name in absent}})
        for part, name in parts.items():
            module: Any = deepcopy(modules.get(part)).to("cpu", dtype)
            module.save_pretrained(target / name, safe_serialization=True)
            config = json.loads((target / name / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # where it was read from: a path of this machine
            write_json(target / name / "config.json", config)


def _unreadable(files: ModelFiles, folder: str, why: str) -> UserError:
    return UserError(
        f"the {folder} cannot be read ({why})",
        got=files.source.location,
        fix="download it again, or check that its config belongs to its weights",
    )
