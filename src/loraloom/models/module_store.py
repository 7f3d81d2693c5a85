"""Modules of an opened model by part: read at first use, frozen, placed on devices, dropped, and identified by hashes.

In: how a part is read, built without weights, and how its files are summed. Out: `ModuleStore`, which every family gives to
the shared code. Training from cached latents and prompt embeddings therefore never holds a VAE or a text encoder.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from loraloom.models.block_swap import BlockSwap, count_blocks, recomputes, repeated_blocks
from loraloom.models.low_bits import LowBits, store
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet


class ModuleStore:
    """See `protocols.model.Modules`.

    Args:
        load: Reads the weights of a part; called at first use and again after `drop`.
        build: Makes the module of a part from its config, without weights; called on the meta device, once for each part.
        fingerprint: sha256 over a part's weight files and config; called once for each part.
        file_sha256: sha256 of the whole model where it is one file.
        blocks: Part -> name of its list of blocks, for modules without gradient checkpointing of their own.
        load_small: Reads the weights of a part straight into low bits; None: they are read by `load` and then stored.
    """

    def __init__(
        self,
        load: Callable[[str], nn.Module],
        fingerprint: Callable[[str], str],
        *,
        build: Callable[[str], nn.Module],
        file_sha256: Callable[[], str | None] = lambda: None,
        blocks: Mapping[str, str] | None = None,
        load_small: Callable[[str, LowBits], nn.Module] | None = None,
    ) -> None:
        self._load = load
        self._load_small = load_small
        self._low_bits: dict[str, LowBits] = {}
        self._sum = fingerprint
        self._build = build
        self.file_sha256 = file_sha256
        self._blocks = dict(blocks or {})
        self._modules: dict[str, nn.Module] = {}
        self._skeletons: dict[str, nn.Module] = {}
        self._swaps: dict[str, BlockSwap] = {}
        self._fingerprints: dict[str, str] = {}
        self._edit: Callable[[str, nn.Module], None] | None = None

    def get(self, part: str) -> nn.Module:
        """The part's module: loaded if need be, frozen, in evaluation mode."""
        if part not in self._modules:
            if self._edit is not None:
                self._drop_all()
            module = self._read(part)
            if self._edit is not None:
                self._edit(part, module)
            self._modules[part] = module.eval()
        return self._modules[part]

    def _read(self, part: str) -> nn.Module:
        """The part from its files, frozen, in low bits where these were asked for."""
        kind = self._low_bits.pop(part, None)
        if kind is not None and self._load_small is not None:
            return self._load_small(part, kind).requires_grad_(False)
        module = self._load(part).requires_grad_(False)
        if kind is not None:
            store(module, kind)
        return module

    def read_in_low_bits(self, part: str, kind: LowBits) -> None:
        """Store the linear layers of the part's blocks in low bits when it is read next; it may not be in memory.

        Once dropped, it is read in full again: exports are compared on the full weights.
        """
        assert part not in self._modules, "a part that is in use keeps its weights"
        self._low_bits[part] = kind

    @contextmanager
    def one_at_a_time(self, edit: Callable[[str, nn.Module], None]) -> Iterator[None]:
        """Within the block one part is in memory at a time: the next one that is asked for replaces it.

        No part may be in memory before; none is afterwards.

        Args:
            edit: Called with each part and its module when it is read; may change the weights.
        """
        assert not self._modules, "a part that is in use cannot be replaced"
        self._edit = edit
        try:
            yield
        finally:
            self._edit = None
            self._drop_all()

    def skeleton(self, part: str) -> nn.Module:
        """The part's module on the meta device: names and shapes of its layers; reads configs only."""
        if part not in self._skeletons:
            with torch.device("meta"), quiet():
                self._skeletons[part] = self._build(part).requires_grad_(False).eval()
        return self._skeletons[part]

    def put(self, part: str, module: nn.Module) -> None:
        """Use `module` as the part until it is dropped: one without data, on which a step is tried."""
        self.drop(part)
        self._modules[part] = module

    def loaded(self, part: str) -> bool:
        """Whether the part's weights are in memory."""
        return part in self._modules

    def place(self, part: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The part's module on `device` in `dtype`."""
        module = self.get(part)
        if part in self._swaps:  # some of its weights are meant to stay on the CPU
            assert self._swaps[part].device == device, "a part with swapped blocks does not move"
            return module
        with quiet():  # diffusers warns of an empty list of modules to keep in float32
            module.to(device=device, dtype=dtype)
        return module

    def drop(self, part: str) -> None:
        """Forget the part's weights; the next use reads them again."""
        self._swaps.pop(part, None)
        if self._modules.pop(part, None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _drop_all(self) -> None:
        for part in list(self._modules):
            self.drop(part)

    def fingerprint(self, part: str) -> str:
        """sha256 over a part's weight files and config, read once."""
        if part not in self._fingerprints:
            self._fingerprints[part] = self._sum(part)
        return self._fingerprints[part]

    def swap_blocks(self, part: str, device: torch.device, wish: float) -> BlockSwap:
        """Keep blocks of a part, which lies on the CPU with its adapters, in CPU memory; all else moves to `device`.

        Raises:
            UserError: The part has no blocks, or fewer than `wish` asks for.
        """
        module = self.get(part)
        count = count_blocks(wish, len(repeated_blocks(module)), part.replace("_", " "))
        self._swaps[part] = BlockSwap(module, device, count)
        return self._swaps[part]

    def checkpoint_gradients(self, part: str) -> None:
        """Compute activations of the part again in the backward pass instead of keeping them.

        Raises:
            UserError: The part has no blocks that could be computed again.
        """
        module: Any = self.get(part)
        if part in self._blocks:
            for block in module.get_submodule(self._blocks[part]).children():
                _recompute(block)
        elif callable(enable := getattr(module, "enable_gradient_checkpointing", None)) or callable(
            enable := getattr(module, "gradient_checkpointing_enable", None)
        ):
            enable()
        else:
            raise UserError(
                f"the {part.replace('_', ' ')} of this model has no gradient checkpointing",
                fix="switch train.gradient_checkpointing off",
            )


def _recompute(block: Any) -> None:
    """Wrap a block's forward so that training keeps its inputs only. Wrapping twice changes nothing."""
    if recomputes(block) or (isinstance(block.forward, partial) and block.forward.func is _checkpointed):
        return
    block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)
