"""Adapters folded into the weights draw what layers beside them draw, and come off without a trace."""

from pathlib import Path

import pytest
import torch

from loraloom.lora.files import load_adapter_file, read_adapter, save_adapter
from loraloom.lora.inject import lora_layers, set_weight
from loraloom.lora.merged import MergedLora
from loraloom.protocols.model import DiffusionModel

from .test_exports import RECORD, drawn, opened, shaken


def own_weights(model: DiffusionModel) -> list[torch.Tensor]:
    return [layer.get_base_layer().weight.clone() for _, layer in lora_layers(model.modules.get("denoiser"))]


@pytest.mark.parametrize("target", ["cross_attention", "all_linear_conv"])
def test_folded_and_beside_draw_the_same(tiny_model: Path, target: str) -> None:
    model = opened(tiny_model)
    base = drawn(model)
    adapter = shaken(model, rank=4, alpha=6.0, target=target)
    beside = drawn(model)
    MergedLora(model, [adapter], changing=False)
    folded = drawn(model)
    assert (beside - base).abs().max() > 0.01
    torch.testing.assert_close(folded, beside, atol=1e-4, rtol=1e-4)
    assert all(layer.merged for _, layer in lora_layers(model.modules.get("denoiser")))


def test_weights_may_change_and_leave_nothing_behind(tiny_model: Path) -> None:
    base = drawn(opened(tiny_model))
    model = opened(tiny_model)
    adapter = shaken(model, rank=4)
    folding = MergedLora(model, [adapter], changing=True)
    whole = drawn(model)
    for weight in (0.3, 0.0):
        set_weight(model, adapter, weight)
        folding.renew()
    assert torch.equal(drawn(model), base)
    set_weight(model, adapter, 1.0)
    folding.renew()
    assert torch.equal(drawn(model), whole)


def test_several_adapters_add_up(tiny_model: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter.safetensors", shaken(opened(tiny_model), rank=4, alpha=6.0).state(), RECORD)
    model = opened(tiny_model)
    adapters = [
        load_adapter_file(model, read_adapter(tmp_path), f"number{n}", weight) for n, weight in enumerate((0.5, 2.0))
    ]
    beside = drawn(model)
    MergedLora(model, adapters, changing=False)
    torch.testing.assert_close(drawn(model), beside, atol=1e-4, rtol=1e-4)


def test_half_precision_stays_as_it_is(tiny_model: Path) -> None:
    """A bfloat16 weight has eight bits: the sum would lose most of a small update."""
    model = opened(tiny_model)
    model.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    adapter = shaken(model, rank=4)
    before = own_weights(model)
    MergedLora(model, [adapter], changing=True)
    assert all(torch.equal(a, b) for a, b in zip(own_weights(model), before, strict=True))
    assert not any(layer.merged for _, layer in lora_layers(model.modules.get("denoiser")))
