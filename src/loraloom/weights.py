"""Weights from outside are untrusted input.

In: a path to a weight file. Out: its tensors and metadata, or a refusal with the reason. Pickled files are never opened;
a safetensors header is measured before it is parsed (a 300,000-tensor header takes the library 15 s); NaN and infinity
are found before they reach a model.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.errors import UserError
from loraloom.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 10 * 1024 * 1024
MAX_TENSORS = 20_000

PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}


def check_safetensors(path: Path) -> None:
    """Refuse a file that is not plainly a safetensors file of sane size. Reads the header only.

    Raises:
        UserError: Pickled, truncated, oversized header, too many tensors, or not safetensors at all.
    """
    if path.suffix.lower() in PICKLED:
        raise UserError(
            f"{path.name} is a pickled checkpoint, which can run code when it is opened",
            expected="a .safetensors file",
            fix="get the .safetensors version of this model, or convert it on a machine you can lose",
        )
    if not path.is_file():
        raise UserError("no such weight file", got=str(path), fix="check the path")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
        # The first eight bytes are a length, which may look like a pickle's or a zip's; then the header's brace follows.
        whole = 2 <= length <= size - 8 and start[8:] == b"{"
        if not whole and (start[:2] == b"PK" or start[:1] == b"\x80"):
            raise UserError(
                f"{path.name} is a pickled checkpoint under another name, which can run code when it is opened",
                expected="a .safetensors file",
                fix="get the .safetensors version of this model",
            )
        if not whole:
            raise UserError(
                f"{path.name} is not a whole safetensors file", got=f"{size} bytes", fix="download it again"
            )
        if length > MAX_HEADER_BYTES:
            raise UserError(
                f"{path.name} has an oversized header", got=f"{length} bytes", expected=f"at most {MAX_HEADER_BYTES}"
            )
        header = b"{" + file.read(length - 1)
    # Counting the key is exact enough for a limit and costs no parsing of a hostile header.
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise UserError(f"{path.name} has too many tensors", expected=f"at most {MAX_TENSORS}")
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise UserError(f"{path.name} is not a safetensors file: its header is not JSON", fix="download it again")


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors (on the CPU, in the file's dtypes) and metadata of a safetensors file.

    Raises:
        UserError: As `check_safetensors`, or a tensor holds NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open  # heavy: torch

    check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path.name} is not a whole safetensors file ({error})", fix="download it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path.name}: tensor {name} holds NaN or infinity", fix="use another checkpoint")
    return tensors, metadata


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that appears whole. Tensors are written contiguous, in sorted order, as they are."""
    from safetensors.torch import save  # heavy: torch

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    write_bytes(path, save(ordered, dict(metadata or {})))
