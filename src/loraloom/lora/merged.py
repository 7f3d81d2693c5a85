"""Adapters added into the weights that they sit on: drawing with them then costs what drawing without them costs.

In: a model with adapters on. Out: the same model, W + sum of (weight alpha / rank) B A in place of each W (Hu et al.
2021, section 4.1), updates of whole weights (`deltas.py`) added in the same way. Only weights in float32 are folded: half
precision would round small updates away, so there the layers stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loraloom.lora.deltas import DeltaLayer
from loraloom.lora.inject import Adapter, lora_layers
from loraloom.protocols.model import DiffusionModel


class MergedLora:
    """Adapters folded into a model.

    Args:
        model: Whose parts carry the adapters; they must not learn while folded.
        adapters: All that are on it.
        changing: Whether weights will change, see `renew`: the base's own weights are kept beside, on the CPU.
    """

    def __init__(self, model: DiffusionModel, adapters: Sequence[Adapter], *, changing: bool) -> None:
        parts = dict.fromkeys(part for adapter in adapters for part in adapter.modules)
        layers = {
            id(layer.get_base_layer()): layer for part in parts for _, layer in lora_layers(model.modules.get(part))
        }
        deltas: dict[int, list[DeltaLayer]] = {}
        for delta in (delta for adapter in adapters for delta in adapter.deltas):
            deltas.setdefault(id(delta.layer), []).append(delta)
        bases = {key: layer.get_base_layer() for key, layer in layers.items()}
        bases.update({key: found[0].layer for key, found in deltas.items()})
        self._sites = [
            _Site(base, layers.get(key), deltas.get(key, []))
            for key, base in bases.items()
            if base.weight.dtype == torch.float32
        ]
        self._own: list[Tensor] | None = None
        if changing:
            self._own = [site.base.weight.detach().to("cpu", copy=True) for site in self._sites]
        self._merge()

    def renew(self) -> None:
        """Fold again after a weight has changed. Same weights, same bits, whatever they were in between."""
        self._restore()
        self._merge()

    def remove(self) -> None:
        """Leave the base's own weights, bit for bit, and switch every adapter off."""
        self._restore()
        for site in self._sites:
            for delta in site.deltas:
                delta.remove()

    def _restore(self) -> None:
        assert self._own is not None, "folded for good: say `changing` first"
        for site, own in zip(self._sites, self._own, strict=True):
            site.base.weight.data.copy_(own)

    def _merge(self) -> None:
        for site in self._sites:
            weight = site.base.weight.data
            # DoRA's update depends on the base's own weight: all of them are computed before one is added.
            changes = [delta.change(weight) for delta in site.deltas if delta.weight != 0]
            if site.layer is not None:
                names = list(site.layer.lora_A.keys())
                for name in names:
                    if site.layer.scaling[name] != 0:
                        weight += site.layer.get_delta_weight(name)
                site.layer.merged_adapters = names  # peft then calls the base layer alone
            for change in changes:
                weight += change
            for delta in site.deltas:
                delta.merge()


@dataclass(frozen=True, slots=True)
class _Site:
    """A layer of the base, the peft layer around it if there is one, and the updates of its whole weight."""

    base: Any
    layer: Any
    deltas: list[DeltaLayer]
