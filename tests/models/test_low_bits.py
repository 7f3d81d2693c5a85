"""Frozen layers in 8 or 4 bits: the stored numbers are the nearest that there are, and gradients are those of these numbers."""

import pytest
import torch
from torch import nn

from loraloom.models.low_bits import BLOCK, FP8, FP8_MAX, NF4, LowBitLinear, LowBits, plain_weight, store

KINDS: tuple[LowBits, ...] = ("fp8", "nf4")


def network(seed: int = 0) -> nn.Module:
    """A list of blocks with linear layers, and one layer outside of it."""
    torch.manual_seed(seed)
    module = nn.Module()
    module.blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24, bias=False)) for _ in range(3)
    )
    module.last = nn.Linear(24, 24)
    return module.requires_grad_(False)


def answer(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for block in module.get_submodule("blocks").children():
        x = x + block(x)
    return module.get_submodule("last")(x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_becomes_the_nearest_number_of_its_kind(kind: LowBits) -> None:
    """By a search over all numbers of the kind, one weight at a time."""
    module = network()
    before = module.get_submodule("blocks.0.0").weight.clone()
    assert store(module, kind) == 6
    layer = module.get_submodule("blocks.0.0")
    assert isinstance(layer, LowBitLinear)
    found = layer.expanded(torch.float32)
    if kind == "fp8":
        codes = torch.arange(256, dtype=torch.uint8).view(FP8).float()
        numbers, scales = codes[codes.isfinite()], (before.abs().amax(1, keepdim=True) / FP8_MAX).expand_as(before)
    else:
        numbers = torch.tensor(NF4)
        scales = before.flatten().view(-1, BLOCK).abs().amax(1, keepdim=True).expand(-1, BLOCK).reshape(before.shape)
    nearest = (before[..., None] - numbers * scales[..., None]).abs().amin(-1)
    torch.testing.assert_close((before - found).abs(), nearest, atol=1e-6, rtol=1e-4)


def test_the_table_of_4_bits_is_the_formula_of_qlora() -> None:
    """Dettmers et al. 2023: quantiles of a normal distribution, eight above zero and seven below, ends at one, zero exact."""
    from statistics import NormalDist

    offset = 0.9677083
    above = [NormalDist().inv_cdf(offset + (0.5 - offset) * k / 8) for k in range(8)]
    below = [-NormalDist().inv_cdf(offset + (0.5 - offset) * k / 7) for k in range(7)]
    values = sorted([*above, *below, 0.0])
    assert [value / max(values) for value in values] == pytest.approx(NF4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_and_gradients_are_those_of_the_expanded_weights(kind: LowBits, autocast: bool) -> None:
    module, plain = network(), network()
    store(module, kind)
    for name, layer in module.named_modules():
        if isinstance(layer, LowBitLinear):
            plain.get_submodule(name).weight.copy_(layer.expanded(torch.float32))
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    for one in (module, plain):
        x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = answer(one, x)
        y.float().square().sum().backward()
        assert x.grad is not None
        results.append((y.detach().float(), x.grad))
    atol = 0.5 if autocast else 1e-4
    torch.testing.assert_close(results[0], results[1], atol=atol, rtol=0.05 if autocast else 1e-4)


@pytest.mark.parametrize(("kind", "bits"), [("fp8", 8.8), ("nf4", 4.7)])
def test_the_frozen_weights_of_blocks_take_as_few_bits_and_others_keep_theirs(kind: LowBits, bits: float) -> None:
    module = nn.Module()
    module.blocks = nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(4))
    module.last = nn.Linear(256, 8)
    store(module.requires_grad_(False), kind)
    stored = sum(p.numel() * p.element_size() for p in module.get_submodule("blocks").parameters())
    assert 8 * stored / (4 * 256 * 256) < bits
    assert type(module.last) is nn.Linear


def test_a_cast_of_the_module_changes_no_stored_number() -> None:
    module = network()
    store(module, "nf4")
    layer = module.get_submodule("blocks.1.0")
    before = plain_weight(layer).clone()
    module.to(torch.bfloat16)
    assert torch.equal(plain_weight(layer), before)


def test_layers_that_learn_are_not_touched() -> None:
    module = network()
    module.get_submodule("blocks.0.0").requires_grad_(True)
    assert store(module, "fp8") == 5
    assert type(module.get_submodule("blocks.0.0")) is nn.Linear


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_data_are_those_with_data(kind: LowBits) -> None:
    real = network()
    with torch.device("meta"):
        empty = network()
    for module in (real, empty):
        store(module, kind)
    shapes = [{name: (p.shape, p.dtype) for name, p in one.named_parameters()} for one in (real, empty)]
    assert shapes[0] == shapes[1]
