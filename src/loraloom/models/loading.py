"""Opening a model: its source is resolved once, then the family that it matches opens it.

In: a `ModelSource` (hub id, diffusers folder, single checkpoint, `builtin:NAME`) and a family name or `auto`. Out: an
opened model of that family, no weights read.
"""

import re
from dataclasses import replace
from pathlib import Path

from loraloom import plugins
from loraloom.config.reading import read_settings
from loraloom.models.files import ResolvedFiles
from loraloom.protocols.model import DiffusionModel, Family, ModelSource
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.hub import download
from loraloom.utils.safetensors_io import PICKLED, check_safetensors

_BUILTIN = "builtin:"
_ASSETS = Path(__file__).parents[1] / "assets"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def open_model(source: ModelSource, family: str = "auto") -> DiffusionModel:
    """Open a model; `auto` takes the first family that matches its files.

    Raises:
        UserError: No family matches it, another one than the named family does, or it cannot be opened.
    """
    files = resolve(source)
    if family != "auto":
        _refuse_other(family, files)
        return _open(plugins.load("families", family), files)
    for name in plugins.names("families"):
        candidate: Family = plugins.load("families", name)
        if candidate.matches(files):
            return _open(candidate, files)
    raise UserError(
        "no family knows this model",
        got=source.location,
        expected="one of " + ", ".join(plugins.names("families")),
        fix="if you know its kind, set --family",
    )


def _open(family: Family, files: ResolvedFiles) -> DiffusionModel:
    """The model, unless the source asks for a choice that the family does not have."""
    model, asked = _open_with_options(family, files), files.source.clip_skip
    if asked is not None and model.info.clip_skip != asked:
        raise UserError(
            "the text encoders of this model are always read at the layer that it was made with",
            got=f"clip_skip {asked}",
            fix="leave clip_skip out",
        )
    return model


def _open_with_options(family: Family, files: ResolvedFiles) -> DiffusionModel:
    """Open with the family's own settings, as `ModelSource.options` gives them.

    Raises:
        UserError: An option that the family does not have, or a value out of its limits; or as `Family.open`.
    """
    given, settings = files.source.options, getattr(family, "settings", None)
    if settings is None:
        if given:
            raise UserError(
                "this kind of model has no options", got=f"{family.name}, {given[0]}", fix="leave out --model-option"
            )
        return family.open(files)
    try:
        options = read_settings(settings, overrides=given).model_dump()
    except UserError as error:
        what = f"--model-option of {family.name}: {error.what}"
        raise UserError(what, got=error.got, expected=error.expected, fix=error.fix) from None
    return family.open(replace(files, options=options))


def resolve(source: ModelSource) -> ResolvedFiles:
    """Find the files; of a hub model only configs and tokenizers are downloaded here, a few hundred kilobytes.

    Raises:
        UserError: Not there, gated, not a model, pickled; says what to do.
    """
    if source.location.startswith(_BUILTIN):
        return ResolvedFiles(source=source, folder=_builtin(source.location.removeprefix(_BUILTIN)))
    try:
        path = Path(source.location).expanduser()
        found = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a name, NUL, an unknown ~user
        path, found = Path("/"), False
    if found:
        if not (path / "model_index.json").is_file():
            raise UserError(
                "not a diffusers model folder",
                got=source.location,
                expected="a folder with model_index.json",
                fix=_nearby(path),
            )
        return ResolvedFiles(source=source, folder=path.resolve(), variant=source.variant)
    if path.suffix.lower() == ".safetensors" or path.suffix.lower() in PICKLED:
        check_safetensors(path)
        folder, hub = _config_folder(source)
        return ResolvedFiles(source=source, folder=folder, single_file=path.resolve(), variant=source.variant, hub=hub)
    if not _HUB_ID.match(source.location):
        raise UserError(
            "no such model",
            got=source.location,
            expected="a diffusers folder, a .safetensors file, a hub id (owner/name) or builtin:NAME",
        )
    folder = download(source.location, source.revision, source.variant, ())
    hub = (source.location, source.revision)
    return ResolvedFiles(source=source, folder=folder, variant=source.variant, hub=hub)


def _refuse_other(named: str, files: ResolvedFiles) -> None:
    """Raise `UserError` where the named family does not match the files and another one does."""
    if plugins.load("families", named).matches(files):
        return
    for name in plugins.names("families"):
        if name != named and plugins.load("families", name).matches(files):
            raise UserError(
                f"this model is of another family: {files.source.location}",
                got=name,
                expected=named,
                fix="leave --family off, or name another model",
            )


def _builtin(name: str) -> Path:
    """Folder of a model that ships with the package.

    Raises:
        UserError: There is no such model.
    """
    known = {entry.parent.name: entry.parent for entry in _ASSETS.glob("*/model_index.json")}
    if name not in known:
        raise UserError(
            "no such built-in model", got=name, fix=did_you_mean(name, known) if known else "this copy has none"
        )
    return known[name]


def _nearby(path: Path) -> str:
    inside = sorted(entry.parent.name for entry in path.glob("*/model_index.json"))
    return f"did you mean {path.name}/{inside[0]}?" if inside else "save the model with diffusers' save_pretrained"


def _config_folder(source: ModelSource) -> tuple[Path | None, tuple[str, None] | None]:
    """The folder of configs and tokenizer that the user chose for a single checkpoint, and the hub id that it came from.

    Without a choice the family has its own.
    """
    if source.config is None:
        return None, None
    folder = Path(source.config).expanduser()
    if folder.is_dir():
        return folder.resolve(), None
    return download(source.config, None, None, ()), (source.config, None)
