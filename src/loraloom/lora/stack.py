"""The adapters that are loaded on a model, by name: add, remove, scale, merge and unmerge them.

In: a model and adapters, from files or as `Updates`. Out: the model with W + sum of the adapters' changes in place of each
weight W. Until they are merged, each change is added to its layer's output while the model computes, by one hook for each
layer; the modules of the model stay what they are. Merged, generation takes as long as without adapters (Hu et al. 2021,
section 4.1). Only float32 weights are merged: half precision would round small changes away, so there the hooks stay.

Every change is computed from the base's own weight, which matters for DoRA. Removing or unmerging leaves the base's weights
bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loraloom.lora.blend import Scale
from loraloom.lora.deltas import Delta
from loraloom.lora.files import AdapterFile, read_adapter
from loraloom.lora.inject import base_layers
from loraloom.lora.layers import LoraLayer
from loraloom.lora.reading import Updates
from loraloom.lora.scales import check_scale, scale_of
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError, did_you_mean


class LoraStack:
    """The adapters that are loaded on a model.

    Args:
        model: Gets the adapters. A part must not be dropped from `model.modules` while adapters are loaded on it.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        self._scales: dict[str, Scale] = {}
        self._sites: dict[tuple[str, str], _Site] = {}
        self._merged, self._keep_base = False, True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded adapters, in the order in which they were added."""
        return tuple(self._scales)

    @property
    def scales(self) -> dict[str, Scale]:
        """The scale of each loaded adapter."""
        return dict(self._scales)

    @property
    def merged(self) -> bool:
        """Whether the adapters are merged into the float32 weights."""
        return self._merged

    def add(self, name: str, adapter: Path | AdapterFile | Updates, scale: Scale = 1.0) -> tuple[str, ...]:
        """Load an adapter under a name. If the others are merged, it is merged too.

        Args:
            name: Any name that no other adapter has.
            adapter: A run, a checkpoint or a file; or what was read of one for this model.
            scale: Number from -100 to 100, or numbers by part and block.

        Returns:
            Sentences for the user: what the file does not state.

        Raises:
            UserError: The name is in use, the adapter does not fit the model, or the scale does not fit the adapter.
        """
        if name in self._scales:
            raise UserError("two adapters of one name", got=name, fix="remove the first one, or choose another name")
        updates = adapter
        if isinstance(updates, Path):
            updates = read_adapter(updates)
        if isinstance(updates, AdapterFile):
            updates = updates.updates(self._model)
        found = [*updates.layers, *updates.deltas]
        check_scale(name, scale, [(update.part, update.module) for update in found])
        layers = {part: dict(base_layers(self._model.modules.get(part))) for part in {each.part for each in found}}

        def load() -> None:
            self._scales[name] = scale
            for update in found:
                place = (update.part, update.module)
                if place not in self._sites:
                    self._sites[place] = _Site(layers[update.part][update.module])
                self._sites[place].entries[name] = _Entry(update, scale_of(scale, *place))

        self._change(load, lambda: self._discard(name))
        return updates.notes

    def remove(self, name: str) -> None:
        """Remove an adapter and leave no trace of it. If the others are merged, they are merged again without it.

        Raises:
            UserError: No adapter has this name.
        """
        self._check_name(name)
        self._change(lambda: self._discard(name))

    def set_scales(self, scales: Mapping[str, Scale]) -> None:
        """Change scales; adapters that are not named keep theirs. Equal scales give equal bits, whatever was set between.

        Args:
            scales: Name of an adapter to its scale.

        Raises:
            UserError: A name, part or block is unknown, or a number is out of range; then nothing has changed.
        """
        for name, scale in scales.items():
            self._check_name(name)
            check_scale(name, scale, [place for place, site in self._sites.items() if name in site.entries])
        self._clear_sample_scales()
        if all(self._scales[name] == scale for name, scale in scales.items()):
            return
        before = dict(self._scales)
        self._change(lambda: self._set(scales), lambda: self._set(before))

    def why_no_sample_scales(self) -> str | None:
        """Why the images of one batch cannot have scales of their own, as the end of a sentence; None where they can."""
        for name in self._scales:
            if self.changes_text(name):
                return f"{name} changes a text encoder"
            entries = [(site, site.entries[name]) for site in self._sites.values() if name in site.entries]
            if any(not isinstance(entry.update, LoraLayer) for _, entry in entries):
                return f"{name} is no plain LoRA"
            if any(getattr(site.layer, "groups", 1) != 1 for site, _ in entries):
                return f"{name} changes a grouped convolution"
        return None

    def set_sample_scales(self, samples: Sequence[Mapping[str, Scale]]) -> None:
        """Give each image of a batch scales of its own, until scales are set or adapters are merged, added or removed.

        Each adapter's change of a layer's output is multiplied by the scale of the image that it belongs to, so a layer is
        computed once for all images. Adapters act beside the base's weights meanwhile.

        Args:
            samples: For each image the name of an adapter to its scale; adapters that it does not name do not act. The batch
                of every layer is these images, repeated as a whole any number of times (for guidance).

        Raises:
            UserError: As `set_scales`; `why_no_sample_scales` must be None.
        """
        assert self.why_no_sample_scales() is None
        for scales in samples:
            for name, scale in scales.items():
                self._check_name(name)
                check_scale(name, scale, [place for place, site in self._sites.items() if name in site.entries])
        self.unmerge()
        for place, site in self._sites.items():
            for name, entry in site.entries.items():
                entry.samples = torch.tensor([scale_of(scales.get(name, 0.0), *place) for scales in samples])

    def _clear_sample_scales(self) -> None:
        for site in self._sites.values():
            for entry in site.entries.values():
                entry.samples = None

    def changes(self, name: str) -> Iterator[tuple[tuple[str, str], Tensor, int]]:
        """Part and module, the change of the weight at scale 1 (float32), and the rank, of each layer of an adapter.

        The rank is that of a plain LoRA; of other kinds it is the largest that the layer's weight can have.

        Raises:
            UserError: No adapter has this name.
        """
        self._check_name(name)
        self.unmerge()
        for place, site in self._sites.items():
            if name in site.entries:
                update, weight = site.entries[name].update, site.layer.weight.detach()
                rank = update.rank if isinstance(update, LoraLayer) else min(weight.flatten(1).shape)
                yield place, update.change(weight, 1.0), rank

    def changes_text(self, name: str) -> bool:
        """Whether an adapter changes a text encoder, so that prompt embeddings depend on its scale."""
        encoders = {part.name for part in self._model.info.parts if part.role == "text_encoder"}
        return any(part in encoders and name in site.entries for (part, _), site in self._sites.items())

    def merge(self, *, keep_base: bool = True) -> None:
        """Add all changes into the float32 weights.

        Args:
            keep_base: Keep the base's own weights on the CPU, so that `unmerge`, `set_scales`, `add` and `remove` are possible
                afterwards. Without them the adapters stay merged for good, and half the memory is used.

        Raises:
            UserError: A change is not finite; the adapters are then not merged.
        """
        self._clear_sample_scales()
        if self._merged:
            return
        if not keep_base:  # what cannot be undone is checked first
            for site in self._sites.values():
                site.check()
        self._merged, self._keep_base = True, keep_base
        try:
            for site in self._sites.values():
                site.merge(keep_base=keep_base)
        except UserError:
            self.unmerge()
            raise

    def unmerge(self) -> None:
        """Restore the base's own weights, bit for bit; the adapters act beside them again.

        Raises:
            UserError: They were merged without `keep_base`.
        """
        if not self._merged:
            return
        if any(site.merged and site.own is None for site in self._sites.values()):
            raise UserError("the adapters are merged for good", fix="open the model again, and merge with keep_base")
        for site in self._sites.values():
            site.unmerge()
        self._merged = False

    def _change(self, act: Callable[[], None], undo: Callable[[], None] = lambda: None) -> None:
        """Change adapters or scales beside the base's own weights; merge again if they were merged, or undo the change."""
        merged = self._merged
        self._clear_sample_scales()
        self.unmerge()
        act()
        if merged:
            try:
                self.merge(keep_base=self._keep_base)
            except UserError:
                undo()
                self.merge(keep_base=self._keep_base)
                raise

    def _set(self, scales: Mapping[str, Scale]) -> None:
        self._scales.update(scales)
        for place, site in self._sites.items():
            for name in scales.keys() & site.entries.keys():
                site.entries[name].set_scale(scale_of(scales[name], *place))

    def _discard(self, name: str) -> None:
        del self._scales[name]
        for place, site in list(self._sites.items()):
            site.entries.pop(name, None)
            if not site.entries:
                site.hook.remove()
                del self._sites[place]

    def _check_name(self, name: str) -> None:
        if name not in self._scales:
            fix = did_you_mean(name, self._scales) if self._scales else "none is loaded"
            raise UserError("no adapter of this name", got=name, fix=fix)


@dataclass(slots=True)
class _Entry:
    """One adapter's update of one layer.

    Attributes:
        update: The update.
        scale: The adapter's scale at this layer.
        kept: What `_beside` has computed or moved to the layer's device.
        samples: (images,) scales that take the place of `scale`, one for each image of a batch; None for none.
    """

    update: LoraLayer | Delta
    scale: float
    kept: tuple[Tensor, ...] = ()
    samples: Tensor | None = None

    @property
    def acts(self) -> bool:
        """Whether it changes the output of its layer."""
        return self.scale != 0 if self.samples is None else bool(self.samples.any())

    def set_scale(self, scale: float) -> None:
        if scale != self.scale:
            self.scale, self.kept = scale, ()


class _Site:
    """A layer of the base with the updates of all adapters."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer: Any = layer
        self.entries: dict[str, _Entry] = {}
        self.merged = False
        self.own: Tensor | None = None
        self.hook = layer.register_forward_hook(self._add)

    def check(self) -> None:
        """Raise `UserError` where `merge` would."""
        for entry in self.entries.values():
            if isinstance(entry.update, Delta) and self.layer.weight.dtype == torch.float32:
                entry.update.change(self.layer.weight.detach(), entry.scale)

    def merge(self, *, keep_base: bool) -> None:
        weight = self.layer.weight.data
        if weight.dtype != torch.float32:
            return
        # A DoRA's change depends on the base's own weight: all changes are computed before one is added.
        changes = [entry.update.change(weight, entry.scale) for entry in self.entries.values() if entry.scale != 0]
        self.own = weight.to("cpu", copy=True) if keep_base else None
        self.merged = True
        for entry in self.entries.values():
            entry.kept = ()
        for change in changes:
            weight += change

    def unmerge(self) -> None:
        if self.merged:
            assert self.own is not None, "checked by the stack"
            self.layer.weight.data.copy_(self.own)
        self.merged, self.own = False, None

    def _add(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dtype = output.dtype
        for entry in self.entries.values():
            if not entry.acts:
                continue
            if not self.merged:
                output = output + _beside(layer, entry, inputs[0])
            if isinstance(entry.update, Delta) and entry.update.bias is not None:
                bias = entry.scale * entry.update.bias.to(output)
                output = output + (bias[:, None, None] if isinstance(layer, nn.Conv2d) else bias)
        return output.to(dtype)


def _beside(layer: Any, entry: _Entry, value: Tensor) -> Tensor:
    """What an update that is not merged adds to the output of its layer for the input `value`."""
    update, weight = entry.update, layer.weight
    if not isinstance(update, LoraLayer) or getattr(layer, "groups", 1) != 1:
        if not _fits(entry, weight.device, weight.dtype):
            # Neither autocast's half precision nor inference tensors, which autograd refuses, may be kept.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
                entry.kept = (update.change(weight.detach(), entry.scale).to(weight.dtype),)
        return _apply(layer, value, entry.kept[0])
    if not _fits(entry, weight.device, torch.float32):
        with torch.inference_mode(False), torch.no_grad():
            down = update.down.to(weight.device, torch.float32).reshape(update.rank, *weight.shape[1:])
            up = update.up.to(weight.device, torch.float32).reshape(weight.shape[0], update.rank)
            entry.kept = (down, up)
    down, up = entry.kept[0], entry.kept[1]
    inner = _apply(layer, value.to(down.dtype), down)
    outer = F.conv2d(inner, up[:, :, None, None]) if isinstance(layer, nn.Conv2d) else F.linear(inner, up)
    if entry.samples is None:
        return outer * (update.factor * entry.scale)
    assert outer.shape[0] % len(entry.samples) == 0, "a layer whose first axis is not the batch"
    scales_b = (update.factor * entry.samples).to(outer).repeat(outer.shape[0] // len(entry.samples))
    return outer * scales_b.reshape(-1, *[1] * (outer.dim() - 1))


def _fits(entry: _Entry, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the entry has kept tensors that this device and dtype can use."""
    return bool(entry.kept) and entry.kept[0].device == device and entry.kept[0].dtype == dtype


def _apply(layer: Any, value: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(value, weight, None)  # the layer's own stride and padding
    return F.linear(value, weight)
