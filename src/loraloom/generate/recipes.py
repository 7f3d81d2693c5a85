"""Every picture carries its whole recipe: in its own PNG and as a line of `prompts.jsonl`.

In: pictures with the model and adapters that drew them. Out: files; and from a recipe file the requests that draw the
same pictures again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loraloom import __version__
from loraloom.contracts import Picture, PictureRequest
from loraloom.errors import UserError
from loraloom.files import sha256_bytes, write_bytes, write_text

LIST_NAME = "prompts.jsonl"
_PNG_KEY = "loraloom"
_KINDS: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
"""JSON values that a request's field may have, by the field's type as it is written."""

_SAMPLERS = {
    "ddim": "DDIM", "dpmpp_2m_karras": "DPM++ 2M Karras", "euler_a": "Euler a", "unipc": "UniPC", "lcm": "LCM",
}  # fmt: skip
"""Solvers by the names of AUTOMATIC1111's web UI."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a picture.

    Attributes:
        request: Prompt, seed, steps, guidance, sampler, size.
        model: `source`, `revision`, `variant`, `config`, `family`, `sha256` of the denoiser.
        adapters: `path`, `sha256`, `weight` of each.
        prompt_method: How long prompts were read.
        domain: Whose sentences.
        weighting: Whether `(word:1.3)` was a weight.
        precision: `no`, `fp16` or `bf16`.
        repair_rounds: Tries of repair after drawing; 0 is none. They follow from the seed, so a second drawing is the same.
        repair_guidance: Of these tries, towards what is not met; 0 is none, as in recipes that do not name it.
    """

    request: PictureRequest
    model: Mapping[str, Any]
    adapters: Sequence[Mapping[str, Any]]
    prompt_method: str
    domain: str
    weighting: bool
    precision: str
    repair_rounds: int = 0
    repair_guidance: float = 0.0

    def as_row(self) -> dict[str, Any]:
        """Plain values, the request's fields at the top."""
        row = asdict(self)
        return {**row.pop("request"), **row, "loraloom": __version__}


def save_picture(folder: Path, name: str, picture: Picture, recipe: Recipe) -> Path:
    """Write a PNG with its recipe inside; appears whole."""
    path = folder / f"{name}.png"
    info = PngInfo()
    info.add_itxt(_PNG_KEY, json.dumps(recipe.as_row(), ensure_ascii=False))
    info.add_text("parameters", parameters_text(recipe))
    write_png(path, picture.image, info)
    return path


def write_png(path: Path, image: Image.Image, info: PngInfo | None = None) -> None:
    """Write a PNG that appears whole; the folder is made if need be."""
    data = BytesIO()
    image.save(data, format="PNG", pnginfo=info)
    write_bytes(path, data.getvalue())


def parameters_text(recipe: Recipe) -> str:
    """A recipe as AUTOMATIC1111's web UI writes it into the PNG chunk `parameters`, which many programs read.

    Hashes of adapters are that program's: the first 12 hex digits of the sha256 of what follows a safetensors header. One
    is left out when its file is not there, or is another by now. Only names of files are written, never their folders.
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
    names = [_adapter_name(str(adapter["path"])) for adapter in recipe.adapters]
    hashes = [_lora_hash(str(adapter["path"]), str(adapter["sha256"])) for adapter in recipe.adapters]
    if known := [f"{name}: {found}" for name, found in zip(names, hashes, strict=True) if found]:
        facts["Lora hashes"] = ", ".join(known)
    if names:
        weights = [f"{adapter['weight']:g}" for adapter in recipe.adapters]
        facts["Lora weights"] = ", ".join(f"{name}: {weight}" for name, weight in zip(names, weights, strict=True))
    facts["Version"] = f"loraloom {__version__}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in facts.items())])


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(letter in value for letter in ',:\n"') else value


def _adapter_name(path: str) -> str:
    """An adapter's name: the file's, or the run's where all files are called alike."""
    parts = re.split(r"[/\\]", path)
    stem = parts[-1].removesuffix(".safetensors")
    folders = parts[:-1]
    return folders[-1] if stem in {"adapter", "weights", "pytorch_lora_weights"} and folders else stem


@lru_cache(64)
def _lora_hash(path: str, sha256: str) -> str:
    """The hash of an adapter file's tensors, or nothing."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return ""
    if sha256_bytes(data) != sha256 or len(data) < 8:
        return ""
    return sha256_bytes(data[8 + int.from_bytes(data[:8], "little") :])[:12]


def append_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Add rows to a folder's `prompts.jsonl`; a row of the same file name is replaced."""
    path = folder / LIST_NAME
    known = {str(row["file"]): row for row in (read_rows(path) if path.is_file() else [])}
    known.update({str(row["file"]): dict(row) for row in rows})
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in known.values()))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a recipe: a `prompts.jsonl`, a folder that holds one, or a PNG with its recipe inside.

    Raises:
        UserError: No recipe there, or a line that is not one.
    """
    if path.is_dir():
        path = path / LIST_NAME
    if not path.is_file():
        raise UserError(
            "no such recipe", got=str(path), expected=f"{LIST_NAME}, a folder with one, or a PNG made by us"
        )
    if path.suffix.lower() == ".png":
        try:
            with Image.open(path) as image:
                text = image.info.get(_PNG_KEY)
        except OSError as error:
            raise UserError("this picture cannot be read", got=f"{path} ({error})") from None
        if not isinstance(text, str):
            raise UserError(
                "this picture carries no recipe", got=str(path), expected="a PNG made by `loraloom generate`"
            )
        return [{"file": path.name, **_parse(text, path.name)}]
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a prompt may hold other line ends
    except UnicodeDecodeError:
        raise UserError("the recipe is not UTF-8 text", got=str(path), fix=f"name a {LIST_NAME} or a PNG") from None
    return [_parse(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def request_of(row: Mapping[str, Any]) -> PictureRequest:
    """The request in a row.

    Raises:
        UserError: A field is missing or of another type.
    """
    row = {"told": "", **row}  # recipes of earlier versions have none
    names = [field.name for field in fields(PictureRequest)]
    missing = [name for name in names if name not in row]
    if missing:
        raise UserError("a recipe line is incomplete", got=f"no {', '.join(missing)}", fix="use a line that we wrote")
    request = PictureRequest(**{name: row[name] for name in names})
    for field in fields(PictureRequest):
        value, kind = row[field.name], _KINDS[_type_name(field.type)]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise UserError(
                f"{field.name} of a recipe line cannot be that",
                got=value,
                expected=f"a value of type {_type_name(field.type)}",
            )
    if request.num_steps < 1:
        raise UserError("num_steps of a recipe line cannot be that", got=request.num_steps, expected="at least 1")
    return request


def _type_name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else annotation.__name__


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not a JSON line ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object", got=type(row).__name__)
    return row
