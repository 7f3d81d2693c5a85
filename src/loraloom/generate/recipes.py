"""Recipes of images, in their PNG files and as lines of `prompts.jsonl`.

In: images with the model and adapters that generated them. Out: files; and from a recipe file the requests that generate
the same images again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import Field, PlainValidator

from loraloom import __version__
from loraloom.config.generate import MAX_ADAPTER_WEIGHT, MAX_GUIDANCE, MAX_SEED, MAX_SIDE_PX, MAX_STEPS
from loraloom.config.run import MAX_CLIP_SKIP
from loraloom.generate.foreign_recipes import foreign_recipe
from loraloom.lora.blend import name_of_place
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.utils.atomic_files import sha256_bytes, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.image_files import write_png
from loraloom.utils.untrusted import (
    MAX_RECORD_BYTES,
    MAX_TABLE_BYTES,
    check_regular_file,
    is_there,
    library_errors,
    parse_json,
    parse_record,
    read_text,
)

LIST_NAME = "prompts.jsonl"
_PNG_KEY = "loraloom"
MAX_RECIPE_BYTES = 16 * MAX_RECORD_BYTES
"""Maximum size of `prompts.jsonl`: half a million images."""

_SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "euler": "Euler",
    "euler_a": "Euler a",
    "unipc": "UniPC",
    "lcm": "LCM",
}
"""Sampler -> its name in AUTOMATIC1111's web UI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that determines an image.

    Attributes:
        request: Prompt, the user's words, seed, steps, guidance, sampler, size.
        model: `source`, `revision`, `variant`, `config`, `prediction_type`, `options`, `clip_skip`, `family`, `sha256` of the
            denoiser.
        adapters: `name`, `path`, `sha256` and `weight` of each; the weight is a number, or numbers by part and block.
        prompt_method: How long prompts were encoded.
        domain: Domain of the prompt.
        weighting: Whether `(word:1.3)` was read as emphasis.
        precision: `no`, `fp16` or `bf16`.
        repair_rounds: Maximum number of repair attempts; 0: none. The seed determines them, so they are repeatable.
        repair_guidance: Guidance scale of these attempts; 0: none, as in recipes without this field.
    """

    request: ImageRequest
    model: Mapping[str, Any]
    adapters: Sequence[Mapping[str, Any]]
    prompt_method: str
    domain: str
    weighting: bool
    precision: str
    repair_rounds: int = 0
    repair_guidance: float = 0.0

    def as_row(self) -> dict[str, Any]:
        """Plain values; the fields of the request are on the top level."""
        row = asdict(self)
        return {**row.pop("request"), **row, "loraloom": __version__}


def save_image(folder: Path, name: str, image: GeneratedImage, recipe: Recipe) -> Path:
    """Write a PNG with its recipe inside, atomically."""
    path = folder / f"{name}.png"
    info = PngInfo()
    info.add_itxt(_PNG_KEY, json.dumps(recipe.as_row(), ensure_ascii=False))
    info.add_text("parameters", parameters_text(recipe))
    write_png(path, image.image, info)
    return path


def parameters_text(recipe: Recipe) -> str:
    """A recipe as AUTOMATIC1111's web UI writes it into the PNG chunk `parameters`, which many programs read.

    Hashes of adapters are computed as there: the first 12 hex digits of the sha256 of the bytes after the safetensors
    header. A hash is left out if the file is missing or has changed. File names are written without their folders.
    """
    request = recipe.request
    facts: dict[str, str] = {
        "Steps": str(request.num_steps),
        "Sampler": _SAMPLERS.get(request.sampler, request.sampler),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(request.seed),
        "Size": f"{request.width}x{request.height}",
    }
    source = str(recipe.model.get("source") or "")
    if source:
        facts["Model"] = re.split(r"[/\\]", source.rstrip("/\\"))[-1].removesuffix(".safetensors")
    names = [str(adapter.get("name") or name_of_place(str(adapter["path"]))) for adapter in recipe.adapters]
    hashes = [_lora_hash(str(adapter["path"]), str(adapter["sha256"])) for adapter in recipe.adapters]
    if known := [f"{name}: {found}" for name, found in zip(names, hashes, strict=True) if found]:
        facts["Lora hashes"] = ", ".join(known)
    if request.loras is not None:
        facts["Lora blend"] = request.loras or "none"
    elif names:
        weights = [weight_text(adapter["weight"]) for adapter in recipe.adapters]
        facts["Lora weights"] = ", ".join(f"{name}: {weight}" for name, weight in zip(names, weights, strict=True))
    facts["Version"] = f"loraloom {__version__}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in facts.items())])


def weight_text(weight: float | Mapping[str, float]) -> str:
    """A weight for the PNG text, which has no form for weights by part and block other than to list them."""
    if isinstance(weight, Mapping):
        return " ".join(f"{block}={number:g}" for block, number in weight.items())
    return f"{weight:g}"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(letter in value for letter in ',:\n"') else value


@lru_cache(64)
def _lora_hash(path: str, sha256: str) -> str:
    """The hash of an adapter file's tensors; empty if the file is missing or has changed."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return ""
    if sha256_bytes(data) != sha256 or len(data) < 8:
        return ""
    return sha256_bytes(data[8 + int.from_bytes(data[:8], "little") :])[:12]


def append_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Add rows to a folder's `prompts.jsonl`; a row with the same file name is replaced."""
    path = folder / LIST_NAME
    # Rows without a file name were not written here and are kept.
    before = enumerate(read_rows(path)) if is_there(path) else ()
    known: dict[str | int, Mapping[str, Any]] = {str(row["file"]) if "file" in row else n: row for n, row in before}
    known.update({str(row["file"]): dict(row) for row in rows})
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in known.values()))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a recipe: a `prompts.jsonl`, a folder that contains one, or a PNG with its recipe inside.

    Raises:
        UserError: There is no recipe, or a line is invalid.
    """
    if path.is_dir():
        path = path / LIST_NAME
    if not is_there(path):
        raise UserError(
            "the recipe does not exist",
            got=str(path),
            expected=f"{LIST_NAME}, a folder with one, or a PNG made by loraloom",
        )
    if path.suffix.lower() == ".png":
        return [{"file": path.name, **_row_of(path)}]
    # Rows end with \n only; a prompt may contain other line ends.
    text = read_text(path, "the recipe", max_bytes=MAX_RECIPE_BYTES)
    return [_parse(line, f"{path.name}:{number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def request_of(row: Mapping[str, Any], where: str = "a recipe line") -> ImageRequest:
    """The request in a row. The other fields of the row are checked too.

    Raises:
        UserError: A field is missing, unknown, of another type or out of range.
    """
    line = parse_record(_Line, json.dumps(row), where, fix="use a recipe that loraloom wrote")
    values = {field.name: getattr(line, field.name) for field in fields(ImageRequest)}
    return ImageRequest(**{**values, "expanded_prompt": line.expanded_prompt or line.told})


def _row_of(path: Path) -> dict[str, Any]:
    """The row of the recipe inside a PNG: ours, or what another program wrote that is read here."""
    check_regular_file(path, "this image", max_bytes=MAX_TABLE_BYTES)
    with library_errors("this image", path), Image.open(path, formats=["PNG"]) as image:
        chunks = {key: value for key, value in image.info.items() if isinstance(key, str)}
    text = chunks.get(_PNG_KEY)
    if isinstance(text, str):
        return _parse(text, path.name)
    foreign = foreign_recipe(chunks, path.name)
    if foreign is None:
        expected = "a PNG made by `loraloom generate`, AUTOMATIC1111 or ComfyUI"
        raise UserError("this image contains no recipe", got=str(path), expected=expected)
    return foreign.as_row()


def _parse(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object", got=type(row).__name__)
    return row


def _weight(value: Any) -> float | dict[str, float]:
    """A weight of a recipe; a union of types would name its members in errors."""
    numbers: list[Any] = list(value.values()) if isinstance(value, dict) else [value]
    for number in numbers:
        known = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not (known and -MAX_ADAPTER_WEIGHT <= number <= MAX_ADAPTER_WEIGHT):
            limits = f"{-MAX_ADAPTER_WEIGHT:g} to {MAX_ADAPTER_WEIGHT:g}"
            raise ValueError(f"a number from {limits}, or such numbers by part and block")
    return value


Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """The base model in a recipe."""

    source: str = ""
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    options: tuple[str, ...] = ()
    clip_skip: Annotated[int, Field(ge=1, le=MAX_CLIP_SKIP)] | None = None
    family: str = "auto"
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AdapterOf:
    """An adapter in a recipe."""

    path: str
    sha256: str
    weight: Annotated[Any, PlainValidator(_weight)]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A recipe in JSON: the fields of `ImageRequest` and `Recipe` with the ranges of the flags.

    Fields with a default may be missing: earlier versions did not write them.
    """

    prompt: str
    negative_prompt: str
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    num_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    guidance_scale: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)]
    sampler: str
    width: Side
    height: Side
    expanded_prompt: str = ""
    words: str = ""
    loras: str | None = None
    told: str = ""
    """`expanded_prompt` as versions before 0.2 wrote it."""
    model: _Model | None = None
    adapters: tuple[_AdapterOf, ...] | None = None
    prompt_method: str | None = None
    domain: str | None = None
    weighting: bool | None = None
    precision: Literal["no", "fp16", "bf16"] | None = None
    repair_rounds: Annotated[int, Field(ge=0, le=10_000)] | None = None
    repair_guidance: Finite | None = None
    file: str = ""
    loraloom: str = ""
