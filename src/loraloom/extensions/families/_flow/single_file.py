"""A checkpoint of one file as people download it: the denoiser, perhaps with encoders and VAE, in the original code's names.

In: the files of a model, and options that name files of other parts. Out: the denoiser tensor by tensor, with 8-bit weights
read as the numbers that they mean; other parts from a file that was named, the checkpoint, or the folder of `--model-config`.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.extensions.families._flow.native_tensors import NativeTensors, Piece
from loraloom.models.filling import fill, read_tensor
from loraloom.models.headers import check_memory
from loraloom.models.low_bits import BYTES_EACH, LowBits
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import TensorInfo, is_finite, read_header

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
OTHER_PARTS = ("first_stage_model.", "vae.", "text_encoders.", "cond_stage_model.", "conditioner.", "text_encoder")
"""Beginnings of tensors that are not the denoiser's."""
SCALES = ("scale_weight", "weight_scale")
_OF_8_BITS = (*SCALES, "scale_input", "input_scale", "comfy_quant")
"""What 8-bit files keep beside a weight; a scale of inputs is for a matrix product in 8 bits, which is not made here."""
_PLAIN = {"F64", "F32", "F16", "BF16"}
_FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
_COUNTERS = ("position_ids", "num_batches_tracked")
_NOT_READ = (*_COUNTERS, "lm_head.weight")
_UNREAD = (*_COUNTERS, "logit_scale", "lm_head.weight", "encoder.embed_tokens.weight", "text_projection.weight")
"""Ends of weights of an encoder that files may have and no embedding comes from; files of T5 have its table of tokens twice."""
_VAE_PREFIXES = ("first_stage_model.", "vae.")


def prefix_of(names: frozenset[str], native: str) -> str:
    """The prefix of the denoiser's tensors; `native` is one that every checkpoint of the family has."""
    return next((prefix for prefix in PREFIXES if f"{prefix}{native}" in names), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a part other than the denoiser is outside of the folder.

    Attributes:
        file: The safetensors file.
        prefix: Prefix of its tensors there.
    """

    file: Path
    prefix: str


class DenoiserFile:
    """The denoiser of one checkpoint.

    Args:
        file: The checkpoint.
        prefix: Prefix of its tensors.
        table: Where its tensors are.
        title: Name of the family, for errors.
    """

    def __init__(self, file: Path, prefix: str, table: NativeTensors, title: str) -> None:
        self._file, self._prefix, self._table, self._title = file, prefix, table, title
        self._entries = read_header(file).tensors

    def check(self, empty: nn.Module) -> None:
        """Compare names, shapes and dtypes with the module that the config describes; reads the header only.

        Raises:
            UserError: A weight that is missing, unknown, of another shape, or stored in a way that is not read.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
        pieces = self._table.pieces(shapes)
        rows: dict[str, int] = {}
        for name, piece in pieces.items():
            entry = self._entries.get(self._prefix + piece.name)
            if entry is None:
                raise self._other("no such tensor", f"{piece.name} of shape {list(shapes[name])}")
            wanted = shapes[name] if piece.rows is None else (piece.rows[1] - piece.rows[0], *shapes[name][1:])
            got = entry.shape if piece.rows is None else (wanted[0], *entry.shape[1:])
            if got != wanted:
                raise self._other(
                    f"{piece.name} of shape {list(entry.shape)}", f"{list(shapes[name])} as in its config"
                )
            rows[piece.name] = max(rows.get(piece.name, 0), piece.rows[1] if piece.rows else entry.shape[0])
            self._check_dtype(piece, entry)
        for name, count in rows.items():
            if (entry := self._entries[self._prefix + name]).shape[0] != count:
                raise self._other(f"{name} of shape {list(entry.shape)}", f"{count} rows as in its config")
        self._refuse_unknown({piece.name for piece in pieces.values()})

    def load(self, empty: nn.Module, low_bits: LowBits | None) -> nn.Module:
        """Fill a module without memory.

        Raises:
            UserError: NaN or infinity, more than this machine holds, or a damaged file.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
        pieces = self._table.pieces(shapes)
        check_memory("the denoiser", sum(map(math.prod, shapes.values())), BYTES_EACH[low_bits] if low_bits else 4)
        return fill(empty, lambda name, shape: self._read(pieces[name]), "denoiser", low_bits)

    def _read(self, piece: Piece) -> Tensor:
        rows = slice(*piece.rows) if piece.rows else None
        tensor = read_scaled(self._file, self._prefix + piece.name, self._entries, rows)
        return torch.cat(tensor.chunk(2)[::-1]) if piece.swapped else tensor

    def _check_dtype(self, piece: Piece, entry: TensorInfo) -> None:
        if entry.dtype not in _PLAIN and entry.dtype not in _FP8:
            raise UserError(
                f"{piece.name} is stored as {entry.dtype}",
                got=self._file.name,
                expected="float32, float16, bfloat16, or float8 with one scale a layer",
                fix="get the bf16 or the fp8 version of this model",
            )
        if entry.dtype in _FP8:
            check_scales(self._file, self._prefix + piece.name, self._entries)

    def _refuse_unknown(self, known: set[str]) -> None:
        for name in self._entries:
            inner = name.removeprefix(self._prefix)
            theirs = name.startswith(self._prefix) and not (not self._prefix and name.startswith(OTHER_PARTS))
            scale = inner.rpartition(".")[2] in _OF_8_BITS or inner == "scaled_fp8"
            if not theirs or inner in known or scale:
                continue
            if not any(re.fullmatch(pattern, inner) for pattern in self._table.ignored):
                raise self._other(f"{inner}, which the config does not have", "a checkpoint of the config's model")

    def _other(self, got: str, expected: str) -> UserError:
        return UserError(
            f"{self._file.name} is not the {self._title} that the config describes",
            got=got,
            expected=expected,
            fix="name the folder or hub id of the same model with --model-config",
        )


# ------------------------------------------------------------------------------------------------------------ 8 bits


def read_scaled(file: Path, name: str, entries: Mapping[str, TensorInfo], rows: slice | None = None) -> Tensor:
    """A tensor; one of 8-bit floats in float32, times its scale where the file has one."""
    tensor = read_tensor(file, name, rows)
    if entries[name].dtype not in _FP8:
        return tensor
    scale = _scale_of(name, entries)
    if scale is None:
        return tensor.float()
    factor = read_tensor(file, scale).float().flatten()
    if len(factor) > 1:  # one for each output
        factor = (factor if rows is None else factor[rows]).view(-1, *[1] * (tensor.dim() - 1))
    return tensor.float() * factor


def check_scales(file: Path, name: str, entries: Mapping[str, TensorInfo]) -> None:
    """Raise `UserError` for an 8-bit weight whose scales are not one for the layer or for each output."""
    layer = name.rpartition(".")[0]
    scale = _scale_of(name, entries)
    count = math.prod(entries[scale].shape) if scale else 1
    if count not in (1, entries[name].shape[0]):
        raise UserError(
            f"{scale} holds {count} scales",
            got=file.name,
            expected="one for the layer, or one for each of its outputs",
            fix="get the bf16 version of this model, or one in plain or scaled fp8",
        )
    mark = f"{layer}.comfy_quant"
    if mark in entries:
        said = bytes(read_tensor(file, mark).to(torch.uint8).flatten().tolist()).decode("utf-8", "replace")
        try:
            kind = json.loads(said).get("format")
        except (ValueError, AttributeError):
            kind = said
        if kind not in ("float8_e4m3fn", "float8_e5m2"):
            raise UserError(
                f"{layer} is stored in a format that is not read", got=str(kind)[:80], expected="float8_e4m3fn"
            )


def _scale_of(name: str, entries: Mapping[str, TensorInfo]) -> str | None:
    layer = name.rpartition(".")[0]
    return next((f"{layer}.{end}" for end in SCALES if f"{layer}.{end}" in entries), None)


# ------------------------------------------------------------------------------------------------------- other parts


def places_of(files: ModelFiles, encoders: Mapping[str, tuple[str, ...]]) -> dict[str, Place]:
    """The parts that a checkpoint holds beside the denoiser, and those whose files the user named by options.

    Args:
        files: The files of the model.
        encoders: Text encoder -> prefixes that its tensors may have in a checkpoint.

    Raises:
        UserError: A file that was named is not there.
    """
    found: dict[str, Place] = {}
    names = files.tensor_names()
    for part, prefixes in {"vae": _VAE_PREFIXES, **encoders}.items():
        named = str(files.options.get(f"{part}_file", ""))
        held = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), None)
        if named:
            file = Path(named).expanduser()
            inside = read_header(file).tensors  # says what is wrong with the file
            prefix = next((one for one in prefixes if any(name.startswith(one) for name in inside)), "")
            found[part] = Place(file=file, prefix=prefix)
        elif held is not None and files.single_file is not None:
            found[part] = Place(file=files.single_file, prefix=held)
    return found


def refuse_missing(files: ModelFiles, folders: Mapping[str, str], places: Mapping[str, Place], title: str) -> None:
    """Raise `UserError` for a part that neither the checkpoint, nor an option, nor a local folder has.

    Args:
        files: A checkpoint with its folder.
        folders: Part, but the denoiser, -> its folder.
        places: The parts that are elsewhere.
        title: Name of the family.
    """
    assert files.single_file is not None
    assert files.folder is not None
    for part, folder in folders.items():
        lacks = ""
        if not files.has(f"{folder}/config.json"):
            lacks = f"{folder}/config.json"
        elif part not in places and files.source.config and Path(files.source.config).expanduser().is_dir():
            # A hub model's weights are downloaded when they are first used.
            lacks = "" if any(files.path(folder).glob("*.safetensors")) else f"weights in {folder}/"
        if lacks:
            raise UserError(
                f"{files.single_file.name} holds no {part}, and the folder of the other parts lacks {lacks}",
                got=str(files.source.config or files.folder),
                expected=f"the diffusers folder or hub id of a {title}",
                fix=f"name it with --model-config; weights alone also with --model-option {part}_file=FILE.safetensors",
            )


def load_encoder(place: Place, kind: Any, config: Any, part: str) -> nn.Module:
    """A text encoder of transformers from a file that has its own names, with or without a prefix, in float32."""
    tensors = _tensors(place)
    projection = "text_projection.weight"
    if projection not in tensors and "WithProjection" in kind.__name__:
        # CLIP-L as ComfyUI ships it has none: its pooled embedding is not projected.
        tensors[projection] = torch.eye(config.projection_dim, config.hidden_size)
    with _readable(place, part), quiet():
        module, info = kind.from_pretrained(
            None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
        )
    _refuse(place, part, info["missing_keys"], info["unexpected_keys"])
    return module


def load_vae(place: Place, kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """A VAE in the names of latent diffusion or of diffusers, in float32."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = _tensors(place)
    module: Any = kind.from_config(dict(config))
    with _readable(place, "vae"):
        if any(name.startswith("encoder.down.") for name in tensors):
            native = {
                re.sub(r"^(en|de)coder\.((post_)?quant_conv\.)", r"\2", name): one for name, one in tensors.items()
            }
            tensors = convert_ldm_vae_checkpoint(native, module.config)
            tensors |= {name: one for name, one in native.items() if name.startswith("bn.")}
        missing, unknown = module.load_state_dict(tensors, strict=False)
    _refuse(place, "vae", missing, unknown)
    return module


def _tensors(place: Place) -> dict[str, Tensor]:
    """All tensors of floats below a prefix, in float32."""
    entries = read_header(place.file).tensors
    found: dict[str, Tensor] = {}
    for name, entry in entries.items():
        inner = name.removeprefix(place.prefix)
        if not name.startswith(place.prefix) or inner.rpartition(".")[2] in _OF_8_BITS or inner == "scaled_fp8":
            continue
        if entry.dtype in _FP8:
            check_scales(place.file, name, entries)
        elif entry.dtype not in _PLAIN:  # positions, counters, a tokenizer
            continue
        found[inner] = read_scaled(place.file, name, entries).float()
        if not is_finite(found[inner]):
            raise UserError(f"{place.file.name}: {name} holds NaN or infinity", fix="use another file")
    return found


@contextmanager
def _readable(place: Place, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the libraries make of a file
        lines = str(error).strip().splitlines()
        raise UserError(
            f"the {part} cannot be read ({lines[0][:300] if lines else type(error).__name__})",
            got=place.file.name,
            fix="check that the file is of this part and of the config's model",
        ) from error


def _refuse(place: Place, part: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Raise `UserError` unless a file has exactly the weights of a part."""
    lacks = sorted(name for name in missing if not name.endswith(_NOT_READ))
    beyond = sorted(name for name in unknown if not name.endswith(_UNREAD))
    if lacks or beyond:
        why = (
            f"{len(lacks)} weights are missing, the first is {lacks[0]}" if lacks else f"it has {beyond[0]} beside them"
        )
        raise UserError(
            f"{place.file.name} is not the {part} that the config describes",
            got=why,
            expected=f"the {part} of the same model",
            fix=f"name another file with --model-option {part}_file=FILE.safetensors",
        )
