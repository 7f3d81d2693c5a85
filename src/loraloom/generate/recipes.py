"""Every picture carries its whole recipe: in its own PNG and as a line of `prompts.jsonl`.

In: pictures with the model and adapters that drew them. Out: files; and from a recipe file the requests that draw the
same pictures again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loraloom import __version__
from loraloom.contracts import Picture, PictureRequest
from loraloom.errors import UserError
from loraloom.files import write_text

LIST_NAME = "prompts.jsonl"
_PNG_KEY = "loraloom"
_KINDS: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
"""JSON values that a request's field may have, by the field's type as it is written."""


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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    info = PngInfo()
    info.add_itxt(_PNG_KEY, json.dumps(recipe.as_row(), ensure_ascii=False))
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    picture.image.save(temporary, format="PNG", pnginfo=info)
    temporary.replace(path)
    return path


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
