"""What the files of a flow family are, and the refusals that its families share.

In: files that were resolved. Out: the denoiser's class, or a `UserError`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.extensions.families._diffusers.limits import check_components, each, flag, whole
from loraloom.extensions.families._flow.native_tensors import NativeTensors
from loraloom.extensions.families._flow.schedule import check_schedule
from loraloom.protocols.model import ModelFiles
from loraloom.utils.errors import UserError


def denoiser_class(files: ModelFiles) -> str | None:
    """Class of the folder's denoiser as its config names it; None without one."""
    for folder in ("transformer", "unet"):
        if files.has(f"{folder}/config.json"):
            found = files.config(f"{folder}/config.json").get("_class_name")
            return found if isinstance(found, str) else None
    return None


IN_ONE_FILE: Mapping[str, tuple[str, ...]] = {
    "clip_l": ("text_encoders.clip_l.transformer.",),
    "clip_g": ("text_encoders.clip_g.transformer.",),
    "t5": ("text_encoders.t5xxl.transformer.",),
    "qwen3": ("text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_8b.transformer."),
}
"""Prefixes of text encoders in checkpoints of ComfyUI and Stability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How the files of a family are recognised.

    Attributes:
        title: Name of the family, for people.
        denoiser: Class of the denoiser in diffusers.
        native: Ends of names of tensors that a checkpoint in one file has.
        expected: What a folder holds, for an error.
        base: Hub id of the folder whose encoders, VAE and configs belong to a checkpoint in one file.
        tensors: Where the denoiser's tensors are in such a checkpoint.
        encoders: Text encoder -> prefixes that its tensors may have there.
    """

    title: str
    denoiser: str
    native: tuple[str, ...]
    expected: str
    base: Callable[[ModelFiles], str]
    tensors: NativeTensors
    encoders: Mapping[str, tuple[str, ...]]

    def matches(self, files: ModelFiles) -> bool:
        """A folder with this denoiser, or a checkpoint in one file with its tensors."""
        if files.single_file is not None:
            names = files.tensor_names()
            return all(any(name.endswith(end) for name in names) for end in self.native)
        return denoiser_class(files) == self.denoiser

    def complete(self, files: ModelFiles) -> ModelFiles:
        """The same files; a checkpoint in one file with the folder of its other parts.

        Raises:
            UserError: There is no such folder, or it lacks configs.
        """
        if files.single_file is None:
            return files
        default = self.base(files)
        try:
            whole = files.with_configs(default)
        except UserError as error:
            raise UserError(
                f"{files.single_file.name} holds a denoiser; encoders, VAE and configs come from a folder: {error.what}",
                got=default,
                fix=f"name the diffusers folder or hub id of a {self.title} with --model-config; or {error.fix}",
            ) from None
        if denoiser_class(whole) != self.denoiser:
            raise UserError(
                f"the folder of the other parts is not a {self.title}",
                got=denoiser_class(whole) or str(files.source.config),
                expected=self.expected,
                fix=f"name the diffusers folder or hub id of the same model with --model-config, such as {default}",
            )
        return whole

    def refuse_others(self, files: ModelFiles) -> None:
        """Raise `UserError` unless the files are of this kind and without code of their own."""
        if not self.matches(files):
            raise UserError(
                f"this model is not a {self.title}",
                got=denoiser_class(files) or files.source.location,
                expected=self.expected,
                fix="leave out --family",
            )
        if files.has("pipeline.py"):
            raise UserError(
                "the model comes with a pipeline of its own (pipeline.py), which is not run",
                got=str(files.folder),
                fix="use a model without custom code, or delete that file if the model works without it",
            )


def read_configs(
    files: ModelFiles,
    kind: Kind,
    folders: Sequence[str],
    *,
    pipeline: str,
    components: Mapping[str, set[str]],
    unused: set[str],
    flags: Collection[str] = (),
) -> dict[str, Mapping[str, Any]]:
    """The configs of some folders and `scheduler`, of a folder of that kind; of the parts only their classes are checked.

    Args:
        files: What was resolved.
        kind: The family.
        folders: Parts.
        pipeline: Class of the pipeline in model_index.json.
        components: Part -> classes that it may have.
        unused: Parts that may be there and are not read.
        flags: Entries of model_index.json that are true or false.

    Raises:
        UserError: Another kind, another class of a part or of the scheduler, or a config that cannot be read.
    """
    kind.refuse_others(files)
    if files.has("model_index.json"):
        index = dict(files.config("model_index.json"))
        for key in flags:
            flag(index.pop(key, False), f"model_index.json: {key}")
        check_components(index, (pipeline,), components, unused)
    configs: dict[str, Mapping[str, Any]] = {folder: files.config(f"{folder}/config.json") for folder in folders}
    configs["scheduler"] = files.config("scheduler/scheduler_config.json")
    check_schedule(configs["scheduler"], files.source.prediction_type)
    return configs


def refuse_misfits(pairs: Iterable[tuple[str, Any, str, Any]]) -> None:
    """Raise `UserError` for the first number of the denoiser that is not another part's.

    Args:
        pairs: Key of the denoiser's config, its value, whose number it has to be, that number.
    """
    for key, got, whose, expected in pairs:
        if got != expected:
            raise UserError(
                f"transformer/config.json: {key}",
                got=got,
                expected=f"{whose} ({expected})",
                fix="these two parts are of different models: take all parts from one",
            )


def check_rotary(where: str, widths: Any, head: int, *, axes: int) -> None:
    """Raise `UserError` unless rotary tables of even widths, one for each axis of positions, fill a head."""
    key = f"{where}: widths of the rotary tables"
    each(whole(2, 1024), axes)(widths, key)
    if len(widths) != axes or sum(widths) != head or any(width % 2 for width in widths):
        raise UserError(key, got=widths, expected=f"{axes} even numbers whose sum is the width of a head ({head})")


def is_called(files: ModelFiles, word: str) -> bool:
    """Whether the name of a model holds a word: distilled versions are recognised by it where their configs say nothing.

    For a checkpoint in one file the name of the folder of its other parts counts, too.
    """
    places = [files.source.location, files.source.config if files.single_file is not None else None]
    return any(word in Path(place).name.lower() for place in places if place)
