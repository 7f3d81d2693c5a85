"""Weights of the parts of a flow model: from a diffusers folder, a checkpoint in one file, or files that the user named.

In: the files of a model, and how each part is made. Out: modules in float32, checked; the denoiser also straight in low bits.
"""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from loraloom.extensions.families._diffusers.parts import load_part, load_part_small
from loraloom.extensions.families._flow.single_file import (
    DenoiserFile,
    load_encoder,
    load_vae,
    places_of,
    prefix_of,
    refuse_missing,
)
from loraloom.extensions.families._flow.source import Kind
from loraloom.models.files import file_sum
from loraloom.models.filling import read_tensor
from loraloom.models.low_bits import LowBits
from loraloom.protocols.model import ModelFiles
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import read_header
from loraloom.utils.untrusted import library_errors

DENOISER = "denoiser"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartKind:
    """How a part is made.

    Attributes:
        folder: Its folder in the diffusers layout, which is its name in the pipeline.
        kind: Imports its class.
        config: For a text encoder: makes transformers' config of the keys that are known.
    """

    folder: str
    kind: Callable[[], Any]
    config: Callable[[Mapping[str, Any]], Any] | None = None


class FlowWeights:
    """Reads the parts of one model.

    Args:
        files: Files of the model; a checkpoint in one file with the folder of its other parts.
        configs: Folder -> its config, checked.
        kinds: Part -> how it is made.
        family: How the family's files are recognised and named.

    Raises:
        UserError: A checkpoint that is not the config's model, or a part that is nowhere.
    """

    def __init__(
        self, files: ModelFiles, configs: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, PartKind], family: Kind
    ) -> None:
        self._files = files
        self._folder = files.without_single_file()
        self._configs = configs
        self._kinds = kinds
        encoders = {part: prefixes for part, prefixes in family.encoders.items() if part in kinds}
        self._places = places_of(files, encoders)
        self._denoiser: DenoiserFile | None = None
        if files.single_file is not None:
            folders = {part: kind.folder for part, kind in kinds.items() if part != DENOISER}
            refuse_missing(files, folders, self._places, family.title)
            prefix = prefix_of(files.tensor_names(), family.native[0])
            self._denoiser = DenoiserFile(files.single_file, prefix, family.tensors, family.title)
            with torch.device("meta"), quiet():
                empty = self.build(DENOISER)
            self._denoiser.check(empty)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The parts whose weights are not in the folder."""
        return (*([DENOISER] if self._denoiser else []), *self._places)

    def build(self, part: str) -> nn.Module:
        """The part as its config describes it; called on the meta device."""
        spec = self._kinds[part]
        fix = "check that the config belongs to the weights"
        with library_errors(f"{spec.folder}/config.json", self._files.source.location, fix=fix):
            if spec.config:
                return spec.kind()(spec.config(self._configs[spec.folder]))
            return cast("nn.Module", spec.kind().from_config(dict(self._configs[spec.folder])))

    def load(self, part: str, skeleton: Callable[[str], nn.Module], low_bits: LowBits | None = None) -> nn.Module:
        """A part's module; `skeleton` gives it on the meta device.

        Raises:
            UserError: Missing, damaged, not finite, of another config, or larger than this machine.
        """
        spec = self._kinds[part]
        if part == DENOISER and self._denoiser is not None:
            return self._denoiser.load(deepcopy(skeleton(part)), low_bits)
        if part in self._places:
            place = self._places[part]
            if spec.config:
                return load_encoder(place, spec.kind(), spec.config(self._configs[spec.folder]), part)
            return load_vae(place, spec.kind(), self._configs[spec.folder])
        if low_bits:
            return load_part_small(self._folder, spec.folder, lambda: skeleton(part), low_bits)
        extra: dict[str, Any] = {}
        if spec.config:
            extra = {"dtype": torch.float32, "config": spec.config(self._configs[spec.folder])}
        return load_part(self._folder, spec.folder, spec.kind(), lambda: skeleton(part), **extra)

    def tensor(self, part: str, name: str) -> Tensor | None:
        """One tensor of a part that is the same in every layout of files; None if there is none."""
        place = self._places.get(part)
        prefix = place.prefix if place else ""
        for file in [place.file] if place else self._folder.weight_files(self._kinds[part].folder):
            if prefix + name in read_header(file).tensors:
                return read_tensor(file, prefix + name)
        return None

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weight files and config."""
        spec = self._kinds[part]
        if part == DENOISER or part not in self._places:
            files = self._files if part == DENOISER else self._folder
            return files.fingerprint(spec.folder)
        place = self._places[part]
        said = [file_sum(place.file), place.prefix, self._files.config(f"{spec.folder}/config.json")]
        return sha256_bytes(json.dumps(said, sort_keys=True).encode())
