"""Check from the headers of weight files, before reading them, that weights match their config and fit into memory.

In: safetensors files of one part, and the part's module without memory (on torch's meta device). Out: nothing, or a
`UserError` in a line: quantised weights, another shape than the config's, more than this machine holds, NaN.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from loraloom.utils.errors import UserError
from loraloom.utils.memory import total_memory_bytes
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.safetensors_io import TensorInfo
from loraloom.utils.untrusted import (
    MAX_CONFIG_BYTES,
    Shown,
    check_regular_file,
    is_file,
    library_errors,
    read_json_object,
    shown,
)

MAX_WEIGHT_BYTES = 1 << 40
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_COUNTERS = frozenset({"I64", "I32"})
_COUNTED = ("position_ids", "num_batches_tracked")
"""Dtypes of `position_ids`, which are not weights."""
_SLACK = 1_000_000
"""Number of values that a config may require beyond its files; missing tensors are named later."""


def check_files(folder: Path) -> None:
    """Raise `UserError` unless all that lies in a part's folder is a file of sane size, and its index names such files."""
    with library_errors("a folder of the model", folder):
        entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_dir():
            continue
        weights = entry.suffix in {".safetensors", ".bin", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pt", ".ckpt"}
        what = f"{folder.name}/{entry.name} of the model"
        check_regular_file(entry, what, max_bytes=MAX_WEIGHT_BYTES if weights else 64 * MAX_CONFIG_BYTES)
        if entry.name == "adapter_config.json":
            raise UserError(
                f"{what} says that this is an adapter, not a model", got=str(folder), fix="name the base model"
            )
        if entry.name.endswith(".safetensors.index.json"):
            _check_index(entry, what)


def _check_index(path: Path, what: str) -> None:
    index = read_json_object(path, what, max_bytes=10 * MAX_CONFIG_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise UserError(f"{what} names no weights", got=shown(index), expected="weight_map", fix="download it again")
    for name in {str(value) for value in index.values()}:
        if path_problem(name) or "/" in name or not is_file(path.parent / name):
            raise UserError(f"{what} names a file that is not beside it", got=shown(name), fix="download it again")


def check_fit(
    part: str,
    entries: Mapping[str, TensorInfo],
    empty: Callable[[], nn.Module] | None,
    *,
    same_names: bool,
    bytes_each: float = 4,
) -> None:
    """Compare the headers of a part's files with its config and with this machine.

    Args:
        part: The part's folder, for errors.
        entries: Headers of all its files.
        empty: Builds the part without memory.
        same_names: Whether files and module name their tensors alike, so that shapes can be compared.
        bytes_each: Memory of a weight, bytes: 4 in float32.

    Raises:
        UserError: Quantised weights, more than the machine holds, or weights that are not the config's.
    """
    for name, entry in entries.items():
        if entry.dtype not in _PLAIN and not (entry.dtype in _COUNTERS and name.endswith(_COUNTED)):
            raise UserError(
                f"{part}: {name} is stored as {entry.dtype}",
                expected="float16, bfloat16 or float32 weights",
                fix="get a version of this model that is not quantised",
            )
    stored = sum(math.prod(entry.shape) for entry in entries.values())
    check_memory(part, stored, bytes_each)
    if empty is None:
        return
    with library_errors(f"{part}/config.json", part, fix="check that the config belongs to the weights"):
        module = empty()
    wanted = module.state_dict(keep_vars=True)
    asked = sum(tensor.numel() for tensor in wanted.values())
    if asked > 1.5 * stored + _SLACK:
        raise UserError(
            f"the {part}'s config does not belong to its weights",
            got=Shown(f"a config of {asked:,} numbers"),
            expected=f"{stored:,} as in its files",
            fix="download it again",
        )
    if not same_names:
        return
    known = {name.removeprefix("text_model."): entry.shape for name, entry in entries.items()}
    for name, tensor in wanted.items():
        shape = known.get(name.removeprefix("text_model."))
        if shape is not None and shape != tuple(tensor.shape):
            raise UserError(
                f"the {part} cannot be read: its config does not belong to its weights",
                got=Shown(f"{name} of shape {list(shape)} in its files"),
                expected=f"{list(tensor.shape)} as its config says",
                fix="download it again",
            )


def check_memory(part: str, num_weights: int, bytes_each: float = 4) -> None:
    """Raise `UserError` for more weights than this machine holds at that many bytes each."""
    needed, memory = bytes_each * num_weights, total_memory_bytes()
    if memory is not None and needed > memory:
        raise UserError(
            f"{part} needs more memory than this machine has",
            got=Shown(f"{needed / 1e9:,.1f} GB{' in float32' if bytes_each == 4 else ''}"),
            expected=f"at most {memory / 1e9:,.1f} GB",
            fix="use a smaller model, or a machine with more memory",
        )


def check_finite(part: str, module: nn.Module, files: Sequence[Path]) -> None:
    """Raise `UserError` when a weight is NaN or infinite."""
    for name, parameter in module.named_parameters():
        # A sum is quicker than a look at every number, and NaN and infinity survive it.
        if not math.isfinite(float(parameter.detach().sum(dtype=torch.float32))) and not bool(
            parameter.isfinite().all()
        ):
            raise UserError(
                f"the {part} holds NaN or infinity", got=f"{name} in {files[0].name}", fix="use another checkpoint"
            )
