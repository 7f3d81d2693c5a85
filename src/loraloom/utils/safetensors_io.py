"""Weights from outside are untrusted input.

In: a path to a weight file. Out: what its header says, or its tensors and metadata, or a refusal with the reason.
Pickled files are never opened; a safetensors header is measured before it is parsed (a 300,000-tensor header takes the
library 15 s) and checked before a byte is allocated for a tensor; NaN and infinity are found before they reach a model.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.utils.atomic_files import write_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.memory import total_memory_bytes
from loraloom.utils.untrusted import check_regular_file, library_errors, parse_json, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 10 * 1024 * 1024
MAX_TENSORS = 20_000
MAX_FILE_BYTES = 1 << 50
MAX_DIMENSIONS = 8
MAX_NAME = 1000
"""Letters of a tensor's name; patterns are searched in it. The longest in use have about 200."""
MAX_SIZE = 1 << 40
"""Numbers along one dimension."""

PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64, "C64": 64, "F64": 64,
    "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one number of each dtype that the safetensors format knows."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor: dtype as the format names it (`F32`), shape, and bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked safetensors header: the tensors by name, in file order, and the metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def check_safetensors(path: Path) -> None:
    """`read_header` for its refusals alone."""
    read_header(path)


def read_header(path: Path) -> Header:
    """What a safetensors file holds. Reads the header only.

    Raises:
        UserError: Not a regular file, pickled, truncated, oversized header, too many tensors, or a tensor whose dtype,
            shape and place in the file do not agree.
    """
    if path.suffix.lower() in PICKLED:
        raise UserError(
            f"{path.name} is a pickled checkpoint, which can run code when it is opened",
            expected="a .safetensors file",
            fix="get the .safetensors version of this model, or convert it on a machine you can lose",
        )
    if not path.exists() and not path.is_symlink():
        raise UserError("no such weight file", got=str(path), fix="check the path")
    size = check_regular_file(path, f"weight file {path.name}", max_bytes=MAX_FILE_BYTES)
    with library_errors(path.name, path), path.open("rb") as file:
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
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not a safetensors file: its header is not UTF-8", fix="get it again") from None
    parsed = parse_json(text, f"the header of {path.name}")
    metadata = parsed.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"{path.name}: its metadata is not texts by name", got=shown(metadata), fix="get it again")
    data_bytes = size - 8 - length
    infos = {name: _tensor_info(path, name, entry) for name, entry in parsed.items()}
    if sum(info.num_bytes for info in infos.values()) != data_bytes:
        raise UserError(f"{path.name} is not a whole safetensors file", got=f"{size} bytes", fix="download it again")
    return Header(infos, metadata)


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if len(name) > MAX_NAME:
        raise UserError(
            f"{path.name}: a tensor's name is too long", got=f"{len(name):,} letters", fix="get another file"
        )
    fits = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    dtype, shape, offsets = (entry["dtype"], entry["shape"], entry["data_offsets"]) if fits else ("", [], [])
    whole = (
        isinstance(dtype, str)
        and dtype in DTYPE_BITS
        and _are_sizes(shape, MAX_SIZE)
        and len(shape) <= MAX_DIMENSIONS
        and _are_sizes(offsets, MAX_FILE_BYTES)
        and len(offsets) == 2
        and (offsets[1] - offsets[0]) * 8 == prod(shape) * DTYPE_BITS[dtype]
    )
    if not whole:
        raise UserError(
            f"{path.name}: tensor {shown(name)} is not whole",
            got=shown(entry),
            expected="a known dtype, a shape and its bytes",
            fix="the file is damaged: download it again",
        )
    return TensorInfo(dtype, tuple(shape), offsets[1] - offsets[0])


def _are_sizes(values: Any, most: int) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most for value in values
    )


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors (on the CPU, in the file's dtypes) and metadata of a safetensors file.

    Raises:
        UserError: As `read_header`, more than the memory holds, or a tensor holds NaN or infinity.
    """
    header = read_header(path)
    needed, memory = sum(info.num_bytes for info in header.tensors.values()), total_memory_bytes()
    if memory is not None and needed > memory:
        raise UserError(
            f"{path.name} holds more than the memory of this machine",
            got=f"{needed / 2**30:.1f} GiB",
            expected=f"less than {memory / 2**30:.1f} GiB",
            fix="use a machine with more memory",
        )
    from safetensors import SafetensorError, safe_open  # heavy: torch

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path.name} is not a whole safetensors file ({error})", fix="download it again") from error
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path.name} cannot be read ({shown(str(error))})", fix="get another file") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise UserError(f"{path.name}: tensor {name} holds NaN or infinity", fix="use another checkpoint")
    return tensors, metadata


def is_finite(tensor: "Tensor") -> bool:
    """Whether no number of a floating tensor is NaN or infinite; 8-bit floats are looked at as float32."""
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return bool(wide.isfinite().all())


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that appears whole. Tensors are written contiguous, in sorted order, as they are."""
    from safetensors.torch import save  # heavy: torch

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    write_bytes(path, save(ordered, dict(metadata or {})))
