"""Where a model lies: hub id, diffusers folder or single checkpoint, brought to folders on this disk.

In: a `ModelSource`. Out: a `Located` model: a folder with configs and tokenizer, and the weight files of each part.
Nothing from outside is executed: classes are ours to choose, weights are safetensors, custom code is refused.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.extensions.families.stable_diffusion.limits import (
    check_model_index,
    check_schedule,
    check_text_encoder,
    check_unet,
    check_vae,
    refuse_foreign,
)
from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import sha256_bytes, sha256_file, write_json
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.safetensors_io import PICKLED, check_safetensors
from loraloom.utils.untrusted import is_there, library_errors, read_json_object

PART_FOLDER = {"denoiser": "unet", "vae": "vae", "text_encoder": "text_encoder"}
_SMALL_FILES = ["model_index.json", "*/config.json", "*/*_config.json", "*/*.safetensors.index.json", "tokenizer/*"]
_BUILTIN = "builtin:"
_ASSETS = Path(__file__).parents[3] / "assets"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_DEFAULT_SINGLE_FILE_CONFIG = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass(frozen=True, slots=True)
class Located:
    """A model on this disk.

    Attributes:
        folder: diffusers folder with configs and tokenizer; for a single file the folder of the same layout.
        single_file: The checkpoint when the weights are in one file, else None.
        variant: Weight file variant such as `fp16`, or None.
        hub: The hub id and revision that weights come from when they are first asked for, or None.
    """

    folder: Path
    single_file: Path | None = None
    variant: str | None = None
    hub: tuple[str, str | None] | None = None

    def config(self, part_folder: str, name: str = "config.json") -> dict[str, Any]:
        """A part's JSON config.

        Raises:
            UserError: Missing, not JSON, or asking for code of its own (`auto_map`).
        """
        path = self.folder / part_folder / name
        if not is_there(path):
            raise UserError(
                f"the model lacks {part_folder}/{name}",
                got=str(self.folder),
                fix="point to a complete diffusers folder",
            )
        value = read_json_object(path, f"{part_folder}/{name}")
        refuse_foreign(value, f"{part_folder}/{name}")
        return value

    def check(self) -> dict[str, Mapping[str, Any]]:
        """The configs of unet, vae, text_encoder and scheduler, every number in its range and all fitting together.

        Raises:
            UserError: One is missing, cannot be read, or says what this family does not have.
        """
        index = self.folder / "model_index.json"
        if is_there(index):
            check_model_index(read_json_object(index, "model_index.json"))
        if is_there(self.folder / "pipeline.py"):
            raise UserError(
                "the model comes with a pipeline of its own (pipeline.py), which is not run", got=str(self.folder),
                fix="use a model without custom code, or delete that file if the model works without it",
            )  # fmt: skip
        unet, vae = self.config("unet"), self.config("vae")
        check_unet(unet)
        check_vae(vae)
        text_encoder = check_text_encoder(self.config("text_encoder"))
        scheduler = self.config("scheduler", "scheduler_config.json")
        check_schedule(scheduler)
        return {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}

    def is_stable_diffusion(self) -> bool:
        """One CLIP text encoder, cross-attention UNet, no added text-time conditions (which SDXL has)."""
        if not is_there(self.folder / "unet" / "config.json"):
            return False
        if self.single_file is not None and not _has_the_keys(self.single_file):
            return False
        config = self.config("unet")
        return (
            config.get("_class_name") == "UNet2DConditionModel"
            and not config.get("addition_embed_type")
            and not (self.folder / "text_encoder_2").exists()
        )

    def weight_files(self, part: str) -> list[Path]:
        """The safetensors files of a part, sorted; the single file for every part when there is one.

        Raises:
            UserError: No safetensors file, pickled weights only, or a file that `check_safetensors` refuses.
        """
        if self.single_file is not None:
            return [self.single_file]
        if self.hub is not None:
            _download(*self.hub, self.variant, (PART_FOLDER[part],))
        from loraloom.extensions.families.stable_diffusion.headers import check_files  # heavy: torch

        folder = self.folder / PART_FOLDER[part]
        if folder.is_dir():
            check_files(folder)
        files = sorted(folder.glob("*.safetensors"))
        wanted = [
            file for file in files if (f".{self.variant}." in file.name if self.variant else "." not in file.stem)
        ]
        if not wanted:
            pickled = [file.name for file in folder.glob("*") if file.suffix in PICKLED]
            others = sorted({file.stem.split(".", 1)[1] for file in files if "." in file.stem})
            if others and not self.variant:
                fix = f"add --variant {others[0]}"
            elif files and self.variant:
                known = f"choose one of {', '.join(others)}, or " if others else ""
                fix = f"there is no variant {self.variant!r}: {known}leave out --variant"
            elif pickled:
                fix = f"it has pickled weights only ({pickled[0]}), which can run code; get the safetensors version"
            else:
                fix = "point to a complete diffusers folder"
            raise UserError(f"no safetensors weights in {PART_FOLDER[part]}/", got=str(self.folder), fix=fix)
        for file in wanted:
            check_safetensors(file)
        return wanted

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weight files and config."""
        sums = [file_sum(file) for file in self.weight_files(part)]
        return sha256_bytes(json.dumps([sums, self.config(PART_FOLDER[part])], sort_keys=True).encode())


def locate(source: ModelSource) -> Located:
    """Find the model; of a hub model only configs and tokenizer are downloaded here, a few hundred kilobytes.

    Raises:
        UserError: Not there, gated, not a model, pickled; says what to do.
    """
    if source.location.startswith(_BUILTIN):
        return Located(_builtin(source.location.removeprefix(_BUILTIN)))
    try:
        path = Path(source.location).expanduser()
        found = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a name, NUL, an unknown ~user
        path, found = Path("/"), False
    if found:
        if not (path / "model_index.json").is_file():
            raise UserError(
                "not a diffusers model folder", got=source.location, expected="a folder with model_index.json",
                fix=_nearby(path),
            )  # fmt: skip
        return Located(path.resolve(), variant=source.variant)
    if path.suffix.lower() == ".safetensors" or path.suffix.lower() in PICKLED:
        check_safetensors(path)
        return Located(_config_folder(source), single_file=path.resolve())
    if not _HUB_ID.match(source.location):
        raise UserError(
            "no such model",
            got=source.location,
            expected="a diffusers folder, a .safetensors file, a hub id (owner/name) or builtin:NAME",
        )
    folder = _download(source.location, source.revision, source.variant, ())
    return Located(folder, variant=source.variant, hub=(source.location, source.revision))


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


def _config_folder(source: ModelSource) -> Path:
    """Configs and tokenizer for a single checkpoint: the user's choice or Stable Diffusion 1.5's own."""
    chosen = source.config or _DEFAULT_SINGLE_FILE_CONFIG
    folder = Path(chosen).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return _download(chosen, None, None, ())


def _has_the_keys(file: Path) -> bool:
    """Whether a single checkpoint has one text encoder beside the UNet; SDXL's has two, under another name."""
    from safetensors import safe_open

    with library_errors("the checkpoint", file), safe_open(file, framework="pt") as opened:
        keys = list(opened.keys())
    return any(key.startswith("model.diffusion_model.") for key in keys) and not any(
        key.startswith("conditioner.embedders.") for key in keys
    )


def _download(repo: str, revision: str | None, variant: str | None, weights: Sequence[str]) -> Path:
    """The hub's snapshot folder with configs and tokenizer, and the weights of the named part folders."""
    from huggingface_hub import errors, snapshot_download

    suffix = f".{variant}" if variant else ""
    patterns = list(_SMALL_FILES)
    patterns += [f"{folder}/*model{suffix}*.safetensors" for folder in weights]
    ignore = None if variant else ["*.fp16.*", "*.non_ema.*"]
    page = f"https://huggingface.co/{repo}"
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignore))
    except errors.GatedRepoError:
        fix = f"accept its licence at {page}, then run `hf auth login`"
        raise UserError("this model is gated", got=repo, fix=fix) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo} has no such revision", got=revision, fix=f"look at {page}/commits") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            "no such model on the hub",
            got=repo,
            fix=f"check the name at {page}; for a private model run `hf auth login`",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        return _from_cache(repo, revision, patterns, error)


def _from_cache(repo: str, revision: str | None, patterns: list[str], reason: Exception) -> Path:
    """What the hub's cache holds when the hub cannot be reached."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        folder = None
    if folder is None or not (folder / "model_index.json").is_file():
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({type(reason).__name__})"
        raise UserError(
            f"{repo} is not in the cache of this machine and {why}",
            fix=f"on a machine with a network run `hf download {repo}`, or give --model a folder or .safetensors file",
        ) from None
    return folder


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
    memo = _memo_folder() / f"{sha256_bytes(f'{real}|{state.st_size}|{state.st_mtime_ns}'.encode())[:32]}.json"
    try:
        return str(json.loads(memo.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError):
        total = sha256_file(real)
        write_json(memo, {"sha256": total, "file": str(real)})
        return total


def _memo_folder() -> Path:
    root = os.environ.get("LORALOOM_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "loraloom" / "sums"
