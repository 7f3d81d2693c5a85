"""Where a model comes from, and its files resolved once: `ModelSource` and `ModelFiles`.

In: what the user named. Out: records and interfaces only; `models.files` finds and reads the files.
"""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        location: Hub id (`owner/name`), diffusers folder, or a single `.safetensors` checkpoint.
        revision, variant: Hub branch, tag or commit, None is the default branch; file variant such as `fp16`.
        config: For a single file: hub id or folder of a diffusers model whose configs and tokenizer fit; None: the family's.
        prediction_type: `epsilon` or `v_prediction` if the scheduler's config is wrong or missing; `auto`: as in the config.
        options: `NAME=VALUE` of settings that the model's family declares.
        clip_skip: Layer of the text encoders that is read, counted from the end: 1 is the last one, 2 the one before it, as
            A1111 and sd-scripts count. None: the one that the model was made with.
    """

    location: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    prediction_type: str = "auto"
    options: tuple[str, ...] = ()
    clip_skip: int | None = None


class ModelFiles(Protocol):
    """The files of one model; its source is resolved only once.

    Names are those of the diffusers layout: `unet` is a part's folder, `unet/config.json` its config.
    """

    @property
    def source(self) -> ModelSource:
        """The source as the user named it."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Values of the family's `settings`, checked, with defaults for what the user did not name."""

    @property
    def folder(self) -> Path | None:
        """Folder of configs and tokenizers; None for a single file without them."""

    @property
    def single_file(self) -> Path | None:
        """The checkpoint if all weights are in one file; otherwise None."""

    @property
    def variant(self) -> str | None:
        """Weight file variant such as `fp16`."""

    def has(self, name: str) -> bool:
        """Whether a file or folder of the layout exists."""

    def path(self, name: str) -> Path:
        """The path of a file or folder of the layout."""

    def config(self, name: str) -> Mapping[str, Any]:
        """A JSON config.

        Raises:
            UserError: It is missing, not a JSON object, or requires custom code.
        """

    def tensor_names(self) -> frozenset[str]:
        """Names of the tensors of a single file; empty for a folder. Reads the header only."""

    def with_configs(self, default: str) -> "ModelFiles":
        """The same files with a folder of configs; for a single file without one that of the hub model `default`.

        The only call that may download; `Family.matches` does not make it.
        """

    def without_single_file(self) -> "ModelFiles":
        """The folder alone, for the parts that a single file does not hold."""

    def at(self, folder: Path) -> "ModelFiles":
        """The same weights with configs and tokenizers of `folder`, which the family has made."""

    def weight_files(self, folder: str) -> list[Path]:
        """The safetensors files of a part, sorted; the single file for every part when there is one. May download them.

        Raises:
            UserError: There are none, or only pickled ones.
        """

    def fingerprint(self, folder: str) -> str:
        """sha256 over the weight files and the config of a part."""

    def file_sha256(self) -> str | None:
        """sha256 of a single file; None for a folder."""
