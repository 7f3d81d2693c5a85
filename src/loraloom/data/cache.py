"""Cache of latents and prompt embeddings: on disk under a key of all their inputs, and in memory up to a limit.

In: a key (a sha256) and a way to compute what is missing. Out: tensors. An edited image, caption, VAE or tokenizer has
another key, so nothing stale is ever read. Files appear whole; one that is damaged, or holds NaN or infinity, is
computed again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loraloom.utils.atomic_files import remove_leftovers
from loraloom.utils.safetensors_io import write_tensors

Tensors = dict[str, Tensor]

SUM_KEY = "tensors_sha256"
"""Name in a file's header of the sum of its tensors."""


class ContentCache:
    """Tensors by content key.

    Args:
        folder: Where files go, two letters of the key a sub-folder; None keeps everything in memory only.
        memory_bytes: Tensors kept in memory; the least recently used go first. Without a folder there is no limit.
    """

    def __init__(self, folder: Path | None, memory_bytes: int = 4 << 30) -> None:
        self.folder = folder
        self._limit = memory_bytes
        self._held: OrderedDict[str, Tensors] = OrderedDict()
        self._bytes = 0

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Keys that neither memory nor disk has, each once, in order."""
        unknown: dict[str, None] = {}
        for key in keys:
            if key not in self._held and not (self.folder and self._path(self.folder, key).is_file()):
                unknown[key] = None
        return list(unknown)

    def put(self, key: str, tensors: Mapping[str, Tensor], origin: Mapping[str, str] | None = None) -> None:
        """Store on disk and in memory.

        Args:
            key: sha256 of all inputs, hex.
            tensors: What was computed.
            origin: The inputs in words, kept in the file's header: a key does not say what it was made of.
        """
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self.folder:
            metadata = {**(origin or {}), SUM_KEY: tensors_sha256(held)}
            write_tensors(self._path(self.folder, key), held, metadata)
        self._hold(key, held)

    def get(
        self,
        key: str,
        compute: Callable[[], Mapping[str, Tensor]] | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> Tensors:
        """The tensors of a key; `compute` is asked when the file is missing or damaged.

        Raises:
            KeyError: Not there, and nothing to compute it with.
        """
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if self.folder and (path := self._path(self.folder, key)).is_file():
            try:
                tensors = load_file(path)
            except (SafetensorError, OSError):
                tensors = {}  # cut off by a power failure
            if tensors and finite(tensors):
                self._hold(key, tensors)
                return tensors
            path.unlink(missing_ok=True)  # computed again below; earlier versions also kept what was not finite
        if compute is None:
            raise KeyError(key)
        self.put(key, compute(), origin)
        return self._held[key]

    def clean(self) -> None:
        """Remove what killed processes left half-written."""
        if self.folder:
            remove_leftovers(self.folder, deep=True)

    def _hold(self, key: str, tensors: Tensors) -> None:
        if key in self._held:
            return
        self._held[key] = tensors
        self._bytes += _size(tensors)
        while self.folder and self._bytes > self._limit and len(self._held) > 1:
            self._bytes -= _size(self._held.popitem(last=False)[1])

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.safetensors"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors on the CPU, hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def _size(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
