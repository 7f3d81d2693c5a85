"""Where a feature extractor's files are: a folder, a model's own CLIP, or the hub.

In: a location as the user named it. Out: the folder with config, preprocessing, tokenizer and weights, and its sum.
Nothing from outside is executed: weights are safetensors, configs that ask for code are refused.
"""

from dataclasses import dataclass
from pathlib import Path

from loraloom.models.files import file_sum, refuse_foreign
from loraloom.models.headers import check_files
from loraloom.models.loading import resolve
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.hub import download_files
from loraloom.utils.safetensors_io import check_safetensors
from loraloom.utils.untrusted import is_file, read_json_object

DEFAULT_CLIP = "openai/clip-vit-large-patch14"
OWN_CLIP = "clip"
"""Folder of a model that holds its own CLIP, as `builtin:mini` has it."""
_BUILTIN = "builtin:"
_PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """The files of an extractor.

    Attributes:
        location: As the user, or the default, names it.
        folder: Folder of its files.
        sha256: Sum of its first weight file, hex.
    """

    location: str
    folder: Path
    sha256: str


def resolve_extractor(location: str, flag: str) -> Extractor:
    """Find an extractor; downloads from the hub what its cache lacks.

    Args:
        location: Hub id, folder (of the extractor, or of a model with `clip/` in it), or `builtin:NAME`.
        flag: That names it, for errors.

    Raises:
        UserError: Nothing there, no extractor, or it cannot be reached.
    """
    folder = _folder(location, flag)
    config = read_json_object(folder / "config.json", f"config.json of the extractor {location}")
    refuse_foreign(config, f"config.json of the extractor {location}")
    check_files(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            "this extractor has no safetensors weights",
            got=location,
            fix=f"name another with {flag}: pickled weights can run code and are not read",
        )
    for file in weights:
        check_safetensors(file)
    return Extractor(location=location, folder=folder, sha256=file_sum(weights[0]))


def own_clip(base: str | None) -> str | None:
    """The base's own CLIP as a location; None where it has none, or there is no base."""
    if base is None:
        return None
    if base.startswith(_BUILTIN):
        return base if is_file(resolve(ModelSource(location=base)).path(OWN_CLIP) / "config.json") else None
    try:
        folder = Path(base).expanduser() / OWN_CLIP
    except (RuntimeError, ValueError):
        return None
    return str(folder) if is_file(folder / "config.json") else None


def _folder(location: str, flag: str) -> Path:
    if location.startswith(_BUILTIN):
        folder = resolve(ModelSource(location=location)).path(OWN_CLIP)
        if not is_file(folder / "config.json"):
            raise UserError("this built-in model has no CLIP of its own", got=location, fix=f"name one with {flag}")
        return folder
    try:
        path = Path(location).expanduser()
        found = path.is_dir()
    except (OSError, ValueError, RuntimeError):
        path, found = Path("/"), False
    if found:
        for folder in (path, path / OWN_CLIP):
            if is_file(folder / "config.json"):
                return folder.resolve()
        raise UserError(
            "this folder holds no extractor",
            got=location,
            expected="config.json, preprocessor_config.json and model.safetensors",
            fix=f"name another with {flag}",
        )
    if location.count("/") != 1 or location.startswith((".", "/", "~")) or location.endswith("/"):
        raise UserError(
            "no such extractor",
            got=location,
            expected="a folder, a hub id such as openai/clip-vit-large-patch14, or builtin:mini",
            fix=f"name another with {flag}",
        )
    try:
        return download_files(
            location,
            None,
            [*_PATTERNS, "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"],
        )
    except UserError as error:
        fix = f"on a machine with a network run `hf download {location}`, or give {flag} a folder or builtin:mini"
        raise UserError(error.what, got=error.got, expected=error.expected, fix=fix) from None
