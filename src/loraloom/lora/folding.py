"""Adapters added into the weights that they sit on: drawing with them then costs what drawing without them costs.

In: a model with adapters on. Out: the same model, W + sum of (weight alpha / rank) B A in place of each W (Hu et al. 2021,
section 4.1). Only weights in float32 are folded: half precision would round small updates away, so there the layers stay.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loraloom.contracts import DiffusionModel
from loraloom.lora.attach import Adapter, lora_layers


class Folding:
    """Adapters folded into a model.

    Args:
        model: Whose parts carry the adapters; they must not learn while folded.
        adapters: All that are on it.
        changing: Whether weights will change, see `renew`: the base's own weights are kept beside, on the CPU.
    """

    def __init__(self, model: DiffusionModel, adapters: Sequence[Adapter], *, changing: bool) -> None:
        parts = dict.fromkeys(part for adapter in adapters for part in adapter.modules)
        layers = [layer for part in parts for _, layer in lora_layers(model.module(part))]
        self._layers = [layer for layer in layers if layer.get_base_layer().weight.dtype == torch.float32]
        self._own: list[Tensor] | None = None
        if changing:
            self._own = [layer.get_base_layer().weight.detach().to("cpu", copy=True) for layer in self._layers]
        self._fold()

    def renew(self) -> None:
        """Fold again after a weight has changed. Same weights, same bits, whatever they were in between."""
        assert self._own is not None, "folded for good: say `changing` first"
        for layer, own in zip(self._layers, self._own, strict=True):
            layer.get_base_layer().weight.data.copy_(own)
        self._fold()

    def _fold(self) -> None:
        for layer in self._layers:
            names = list(layer.lora_A.keys())
            for name in names:
                if layer.scaling[name] != 0:
                    layer.get_base_layer().weight.data += layer.get_delta_weight(name)
            layer.merged_adapters = names  # peft then calls the base layer alone
