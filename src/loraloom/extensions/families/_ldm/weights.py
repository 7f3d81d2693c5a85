"""Parts of a latent diffusion model of UNet, VAE and CLIP: read from a diffusers folder or a single checkpoint, and saved.

In: the files of a model and a `PartFiles` for each part. Out: float32 modules, checked against configs and headers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any, Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from loraloom.extensions.families._ldm.clip import clip_config
from loraloom.models.headers import check_finite, check_fit
from loraloom.protocols.model import ModelFiles, Modules
from loraloom.utils.atomic_files import whole_directory, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import TensorInfo, read_header
from loraloom.utils.untrusted import library_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFiles:
    """Where a part's weights are.

    Attributes:
        folder: In the diffusers layout, such as `unet`.
        kind: Which class reads them; `clip_projection` is a CLIP text encoder with a pooled embedding.
        prefix: Prefix of its tensors in a single checkpoint.
    """

    folder: str
    kind: Literal["unet", "vae", "clip", "clip_projection"]
    prefix: str


class LdmWeights:
    """Reads and saves the parts of one model.

    Args:
        files: Files of the model.
        parts: Part name -> where its weights are.
        configs: Folder -> its config, checked.
    """

    def __init__(
        self, files: ModelFiles, parts: Mapping[str, PartFiles], configs: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._files = files
        self._parts = parts
        self._configs = configs

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weight files and config."""
        return self._files.fingerprint(self._parts[part].folder)

    def load(self, part: str, skeleton: Callable[[str], nn.Module]) -> nn.Module:
        """A part's module in float32; `skeleton` gives it on the meta device.

        Raises:
            UserError: Missing, damaged, quantised, not finite, of another config, or larger than this machine.
        """
        spec = self._parts[part]
        files = self._files.weight_files(spec.folder)  # refuses before anything is read
        self._check_fit(part, files, skeleton)
        try:
            with quiet():
                if self._files.single_file is not None:
                    module = self._load_single_file(part, self._files.single_file)
                    lacking = [name for name, parameter in module.named_parameters() if parameter.is_meta]
                else:
                    module, lacking = self._load_folder(part)
        except UserError:
            raise
        except Exception as error:  # whatever the libraries make of a file
            lines = str(error).strip().splitlines()
            raise self._unreadable(part, lines[0][:300] if lines else type(error).__name__) from error
        if lacking:
            # The libraries leave what is missing random, with a warning at most.
            raise self._unreadable(part, f"{len(lacking)} of its weights are missing, the first is {lacking[0]}")
        check_finite(spec.folder, module, files)
        return module

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"], modules: Modules) -> None:
        """Write a diffusers folder with the weights as they are now, a missing part read first."""
        with whole_directory(folder) as target, quiet():
            for entry in ("model_index.json", "scheduler", "tokenizer", "tokenizer_2", "feature_extractor"):
                found = self._files.path(entry)
                if found.is_dir():
                    copytree(found, target / entry)
                elif found.is_file():
                    copyfile(found, target / entry)
            for part, spec in self._parts.items():
                module: Any = deepcopy(modules.get(part)).to("cpu", DTYPES[dtype])
                module.save_pretrained(target / spec.folder, safe_serialization=True)
                config = json.loads((target / spec.folder / "config.json").read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)  # where it was read from: a path of this machine
                write_json(target / spec.folder / "config.json", config)

    def _check_fit(self, part: str, files: Sequence[Path], skeleton: Callable[[str], nn.Module]) -> None:
        spec = self._parts[part]
        entries: dict[str, TensorInfo] = {}
        for file in files:
            entries.update(read_header(file).tensors)
        single = self._files.single_file is not None
        if single:
            entries = {name: entry for name, entry in entries.items() if name.startswith(spec.prefix)}
        with quiet():
            check_fit(spec.folder, entries, (lambda: skeleton(part)) if entries else None, same_names=not single)

    def build(self, part: str) -> nn.Module:
        """The part as its config describes it; its weights are not read."""
        spec = self._parts[part]
        config: Any = dict(self._configs[spec.folder])
        fix = "check that the config belongs to the weights"
        with library_errors(f"{spec.folder}/config.json", self._files.source.location, fix=fix):
            if spec.kind == "unet":
                return cast("nn.Module", UNet2DConditionModel.from_config(config))
            if spec.kind == "vae":
                return cast("nn.Module", AutoencoderKL.from_config(config))
            return _text_class(spec.kind)(clip_config(self._configs[spec.folder]))

    def _unreadable(self, part: str, why: str) -> UserError:
        return UserError(
            f"the {self._parts[part].folder} cannot be read ({why})",
            got=self._files.source.location,
            fix="download it again, or check that its config belongs to its weights",
        )

    def _load_folder(self, part: str) -> tuple[nn.Module, list[str]]:
        """The module, and the names of weights that its files lack."""
        spec = self._parts[part]
        kind: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}.get(spec.kind)
        extra: dict[str, Any] = {}
        if kind is None:
            kind, extra = (
                _text_class(spec.kind),
                {"dtype": torch.float32, "config": clip_config(self._configs[spec.folder])},
            )
        module, info = kind.from_pretrained(
            str(self._files.folder),
            subfolder=spec.folder,
            use_safetensors=True,
            local_files_only=True,
            variant=self._files.variant,
            output_loading_info=True,
            **extra,
        )
        return module, sorted(info["missing_keys"])

    def _load_single_file(self, part: str, file: Path) -> nn.Module:
        spec = self._parts[part]
        common: dict[str, Any] = {"config": str(self._files.folder), "subfolder": spec.folder, "local_files_only": True}
        from safetensors import safe_open

        # The libraries would read the whole file for each part.
        with safe_open(file, framework="pt") as opened:
            tensors: Any = {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(spec.prefix)}  # noqa: SIM118
        if spec.kind == "unet":
            return UNet2DConditionModel.from_single_file(tensors, **common)
        if spec.kind == "vae":
            return AutoencoderKL.from_single_file(tensors, **common)
        from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

        return create_diffusers_clip_model_from_ldm(
            _text_class(spec.kind), tensors, torch_dtype=torch.float32, **common
        )


def _text_class(kind: str) -> Any:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection if kind == "clip_projection" else CLIPTextModel
