"""What the files of a flow family are, and the refusals that its families share.

In: files that were resolved. Out: the denoiser's class, or a `UserError`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loraloom.extensions.families._diffusers.limits import each, whole
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError


def denoiser_class(files: ModelFiles) -> str | None:
    """Class of the folder's denoiser as its config names it; None without one."""
    for folder in ("transformer", "unet"):
        if files.has(f"{folder}/config.json"):
            found = files.config(f"{folder}/config.json").get("_class_name")
            return found if isinstance(found, str) else None
    return None


def refuse_single_file(files: ModelFiles, title: str, example: str) -> None:
    """Raise `UserError` for a checkpoint in one file: it holds the denoiser, often without encoders and VAE."""
    if files.single_file is not None:
        raise UserError(
            f"{title} in one file is not read",
            got=files.single_file.name,
            expected="a diffusers folder",
            fix=f"use the same model's folder, such as {example}",
        )


def refuse_own_code(files: ModelFiles) -> None:
    """Raise `UserError` for a model that comes with a pipeline of its own."""
    if files.has("pipeline.py"):
        raise UserError(
            "the model comes with a pipeline of its own (pipeline.py), which is not run",
            got=str(files.folder),
            fix="use a model without custom code, or delete that file if the model works without it",
        )


def refuse_misfits(pairs: Iterable[tuple[str, Any, str, Any]]) -> None:
    """Raise `UserError` for the first number of the denoiser that is not another part's.

    Args:
        pairs: Key of the denoiser's config, its value, whose number it has to be, that number.
    """
    for key, got, whose, expected in pairs:
        if got != expected:
            raise UserError(
                f"transformer/config.json: {key}",
                got=got,
                expected=f"{whose} ({expected})",
                fix="these two parts are of different models: take all parts from one",
            )


def check_rotary(where: str, widths: Any, head: int, *, axes: int) -> None:
    """Raise `UserError` unless rotary tables of even widths, one for each axis of positions, fill a head."""
    key = f"{where}: widths of the rotary tables"
    each(whole(2, 1024), axes)(widths, key)
    if len(widths) != axes or sum(widths) != head or any(width % 2 for width in widths):
        raise UserError(key, got=widths, expected=f"{axes} even numbers whose sum is the width of a head ({head})")


def is_called(files: ModelFiles, word: str) -> bool:
    """Whether the name of a model holds a word: distilled versions are recognised by it where their configs say nothing."""
    return word in Path(files.source.location).name.lower()
