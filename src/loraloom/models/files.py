"""The files of one model, resolved once: a folder with configs and tokenizers, and where the weights of each part are.

In: what `loading.resolve` found. Out: `ResolvedFiles`: configs, weight files, fingerprints. A folder of a part is named as
in the diffusers layout (`unet`). Nothing from outside is executed: weights are safetensors, custom code is refused.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import sha256_bytes, sha256_file, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.hub import download
from loraloom.utils.safetensors_io import PICKLED, check_safetensors
from loraloom.utils.untrusted import is_there, library_errors, read_json_object, shown

_FOREIGN = ("auto_map", "quantization_config", "compression_config", "custom_pipeline")
"""Keys that ask for code of their own, or for weights that are not plain numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFiles:
    """See `protocols.model.ModelFiles`.

    Attributes:
        source: As the user named it.
        folder: Configs and tokenizers in the diffusers layout; None for a single file whose configs nobody named.
        single_file: The checkpoint when the weights are in one file, else None.
        variant: Weight file variant such as `fp16`, or None.
        hub: The hub id and revision that weights of the folder come from when they are first asked for, or None.
        options: Values of the family's own settings.
    """

    source: ModelSource
    folder: Path | None
    single_file: Path | None = None
    variant: str | None = None
    hub: tuple[str, str | None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def has(self, name: str) -> bool:
        """Whether a file or folder of the layout is there, such as `unet/config.json`."""
        return self.folder is not None and is_there(self.folder / name)

    def path(self, name: str) -> Path:
        """The path of a file or folder of the layout."""
        assert self.folder is not None, "with_configs comes first"
        return self.folder / name

    def config(self, name: str) -> dict[str, Any]:
        """A JSON config of the layout, such as `unet/config.json`.

        Raises:
            UserError: Missing, not a JSON object, or asking for code of its own (`auto_map`).
        """
        if not self.has(name):
            where = str(self.folder) if self.folder else self.source.location
            raise UserError(f"the model lacks {name}", got=where, fix="point to a complete diffusers folder")
        value = read_json_object(self.path(name), name)
        refuse_foreign(value, name)
        return value

    def tensor_names(self) -> frozenset[str]:
        """Names of the tensors of a single file; empty for a folder."""
        if self.single_file is None:
            return frozenset()
        from safetensors import safe_open

        with library_errors("the checkpoint", self.single_file), safe_open(self.single_file, framework="pt") as opened:
            return frozenset(opened.keys())

    def with_configs(self, default: str) -> "ResolvedFiles":
        """The same files with a folder of configs; for a single file without one that of the hub model `default`."""
        if self.folder is not None:
            return self
        return replace(self, folder=download(default, None, None, ()), hub=(default, None))

    def without_single_file(self) -> "ResolvedFiles":
        """The folder alone: weights of parts that a single file does not hold."""
        return replace(self, single_file=None)

    def at(self, folder: Path) -> "ResolvedFiles":
        """The same weights with configs and tokenizers of `folder`."""
        return replace(self, folder=folder)

    def weight_files(self, folder: str) -> list[Path]:
        """The safetensors files of a part's folder, sorted; the single file for every part when there is one.

        Raises:
            UserError: No safetensors file, pickled weights only, or a file that `check_safetensors` refuses.
        """
        if self.single_file is not None:
            return [self.single_file]
        if self.hub is not None:
            download(*self.hub, self.variant, (folder,))
        from loraloom.models.headers import check_files  # heavy: torch

        place = self.path(folder)
        if place.is_dir():
            check_files(place)
        files = sorted(place.glob("*.safetensors"))
        wanted = [
            file for file in files if (f".{self.variant}." in file.name if self.variant else "." not in file.stem)
        ]
        if not wanted:
            fix = self._why_none(place, files)
            raise UserError(f"no safetensors weights in {folder}/", got=str(self.folder), fix=fix)
        for file in wanted:
            check_safetensors(file)
        return wanted

    def _why_none(self, place: Path, files: list[Path]) -> str:
        """What to do where a folder has no weights of the wanted variant."""
        pickled = [file.name for file in place.glob("*") if file.suffix in PICKLED]
        others = sorted({file.stem.split(".", 1)[1] for file in files if "." in file.stem})
        if others and not self.variant:
            return f"add --variant {others[0]}"
        if files and self.variant:
            known = f"choose one of {', '.join(others)}, or " if others else ""
            return f"there is no variant {self.variant!r}: {known}leave out --variant"
        if pickled:
            return f"it has pickled weights only ({pickled[0]}), which can run code; get the safetensors version"
        return "point to a complete diffusers folder"

    def fingerprint(self, folder: str) -> str:
        """sha256 over the weight files and the config of a part's folder."""
        sums = [file_sum(file) for file in self.weight_files(folder)]
        return sha256_bytes(json.dumps([sums, self.config(f"{folder}/config.json")], sort_keys=True).encode())

    def file_sha256(self) -> str | None:
        """sha256 of a single checkpoint; None for a folder."""
        return file_sum(self.single_file) if self.single_file else None


def refuse_foreign(config: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` for a config that asks for code of its own or for quantised weights."""
    for key in _FOREIGN:
        if config.get(key) is None:
            continue
        if "quant" in key or "compression" in key:
            raise UserError(
                f"{where}: {key}: the weights are quantised",
                got=shown(config[key]),
                expected="plain weights",
                fix="get the float16 or float32 version of this model",
            )
        raise UserError(
            f"{where} asks to run code that comes with the model ({key})", fix="use a model without custom code"
        )


def file_sum(path: Path) -> str:
    """sha256 of a weight file, remembered beside the user's cache by path, size and time of change.

    In the hub's cache the name of the blob is the sum already.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    if real.stat().st_size < (64 << 20):
        return sha256_file(real)
    state = real.stat()
    memo = cache_folder("sums") / f"{sha256_bytes(f'{real}|{state.st_size}|{state.st_mtime_ns}'.encode())[:32]}.json"
    try:
        return str(json.loads(memo.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        total = sha256_file(real)
        write_json(memo, {"sha256": total, "file": str(real)})
        return total


def cache_folder(name: str) -> Path:
    """A folder of that name in the user's cache; may not be there yet."""
    root = os.environ.get("LORALOOM_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "loraloom" / name
