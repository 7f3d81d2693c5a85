"""Adapters on the Hugging Face hub: `org/name`, or `org/name/file.safetensors` where a repository has several.

In: a place that is not on this disk. Out: the file in the hub's own cache, downloaded where it is missing. Only the adapter's
file and its `adapter_config.json` are downloaded, whatever else the repository has. Without a network the cache is used.
"""

import re
from pathlib import Path, PurePosixPath

from loraloom.utils.errors import UserError
from loraloom.utils.hub import download_files, list_files, why_unreachable
from loraloom.utils.safe_paths import path_problem

USUAL = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter.safetensors")
"""Names under which programs put an adapter into a repository of its own."""
_CONFIG = "adapter_config.json"
_PART = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}")
_SHOWN = 6


def is_hub_place(place: Path) -> bool:
    """Whether a place that is not on this disk can be a hub id, perhaps with a file.

    A path into a folder that is here is a mistyped path, and no name to ask the hub for.
    """
    parts = place.as_posix().split("/")
    if place.is_absolute() or len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts[:2]):
        return False
    is_file = parts[-1].endswith(".safetensors")
    if is_file == (len(parts) == 2) or path_problem("/".join(parts)):
        return False
    return not Path(parts[0]).exists()


def find_on_hub(place: Path) -> Path:
    """The adapter file that a hub id means, in the hub's cache.

    Raises:
        UserError: Neither the hub nor the cache has it, or the repository holds no adapter, or several.
    """
    parts = place.as_posix().split("/")
    repo, name = "/".join(parts[:2]), "/".join(parts[2:])
    files = list_files(repo)
    if files is None:
        raise UserError(
            "no such adapter",
            got=place.as_posix(),
            expected="a run folder, a checkpoint folder, a .safetensors file or a hub id",
            fix=f"there is none on this disk or in the hub's cache, and {why_unreachable()}; with a network: "
            f"hf download {repo}",
        )
    name = name or _the_adapter(repo, files)
    if name not in files:
        there = ", ".join(_adapters(files)[:_SHOWN]) or "no safetensors file"
        raise UserError(f"{repo} has no such file", got=name, expected=f"one of {there}")
    config = (PurePosixPath(name).parent / _CONFIG).as_posix()
    folder = download_files(repo, None, [name, config], complete=name, flag="--lora")
    return folder / name


def _the_adapter(repo: str, files: list[str]) -> str:
    """The one file of a repository that is an adapter by its name, or its only safetensors file."""
    found = _adapters(files)
    for name in USUAL:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            "this repository holds no LoRA in safetensors",
            got=repo,
            fix="name another: pickled weights can run code and are not read",
        )
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    raise UserError(
        "this repository holds several files",
        got=repo,
        expected=", ".join(found[:_SHOWN]) + more,
        fix=f"name one: {repo}/{found[0]}",
    )


def _adapters(files: list[str]) -> list[str]:
    """Safetensors files, those of checkpoints and of whole models left out."""
    whole = ("unet/", "vae/", "text_encoder", "transformer/", "checkpoint-")
    own = [name for name in files if name.endswith(".safetensors") and not name.startswith(whole)]
    return [name for name in own if not path_problem(name)]
