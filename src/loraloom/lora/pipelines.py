"""Load an adapter file into a loaded pipeline of diffusers, of any family, its own LoRA loader needed or not.

In: a pipeline, and an adapter of any kind and key format that is read. Out: the pipeline generates with the adapter, which
its `LoraStack` scales, merges and removes by name.
"""

import warnings
from pathlib import Path
from typing import Any

from loraloom import plugins
from loraloom.lora.files import read_adapter
from loraloom.lora.stack import LoraStack, Scale
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

_ATTRIBUTE = "_loraloom_adapters"
"""Attribute of a pipeline that holds its stack, so that a second call adds to the first one's."""


def load_adapter(pipeline: Any, file: str | Path, *, name: str | None = None, scale: Scale = 1.0) -> LoraStack:
    """Load an adapter into a pipeline. What its file does not state is a warning.

    Args:
        pipeline: A loaded pipeline of diffusers. Its modules keep their classes and names.
        file: A run, a checkpoint or a file.
        name: Name of the adapter in the stack; the file's name without its ending where None.
        scale: 0 is the base, 1 as trained; or numbers by part and block.

    Returns:
        The pipeline's adapters, the same object for every call: `set_scales`, `merge`, `unmerge`, `remove`.

    Raises:
        UserError: No family knows this pipeline, the file does not fit it, or the name is in use.
    """
    adapter = read_adapter(Path(file))
    stack = getattr(pipeline, "__dict__", {}).get(_ATTRIBUTE)
    if stack is None:
        stack = LoraStack(_model_of(pipeline))
    notes = stack.add(name or adapter.path.stem, adapter, scale)
    vars(pipeline)[_ATTRIBUTE] = stack
    options = (adapter.record.get("base") or {}).get("options") or ()
    if options:
        notes = (
            *notes,
            f"note: {adapter.path.name} was trained with {', '.join(options)}, which a pipeline does not know",
        )
    for note in notes:
        warnings.warn(note.removeprefix("note: "), stacklevel=2)
    return stack


def _model_of(pipeline: Any) -> DiffusionModel:
    """The pipeline as a model of the family that knows it."""
    for name in plugins.names("families"):
        wrap = getattr(plugins.load("families", name), "wrap", None)
        if wrap is not None and (model := wrap(pipeline)) is not None:
            return model
    raise UserError(
        "no family knows this pipeline",
        got=type(pipeline).__name__,
        expected="a diffusers pipeline of " + ", ".join(plugins.names("families")),
    )
