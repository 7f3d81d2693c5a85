"""Learning rates are functions of the step; optimizer state survives a round trip exactly."""

from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loraloom.config.run import OptimConfig
from loraloom.train.muon import Muon, by_kind
from loraloom.train.optim import Ema, LossScale, Updater, learning_rate_factor, optimizer_tensors, restore_optimizer


@given(st.sampled_from(["constant", "cosine", "linear"]), st.integers(0, 50), st.integers(51, 500), st.data())
def test_the_rate_rises_then_never_rises_again(name: str, warmup: int, steps: int, data: st.DataObject) -> None:
    config = OptimConfig.model_validate({"scheduler": name, "warmup_steps": warmup})
    rates = [learning_rate_factor(step, config, steps) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b for a, b in pairwise(rates[warmup:]))
    assert rates[warmup] == 1.0


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", "get_cosine_schedule_with_warmup"), ("linear", "get_linear_schedule_with_warmup")]
)
def test_after_warm_up_rates_equal_diffusers(name: str, theirs: str) -> None:
    import diffusers.optimization

    config = OptimConfig.model_validate({"scheduler": name, "warmup_steps": 10})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = getattr(diffusers.optimization, theirs)(optimizer, num_warmup_steps=10, num_training_steps=100)
    for step in range(100):
        if step >= 10:  # their first step has rate 0, ours moves
            assert learning_rate_factor(step, config, 100) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,))]


def walk(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "muon", "prodigy"])
def test_a_restored_optimizer_walks_on_exactly(kind: str) -> None:
    def make(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        if kind == "adamw":
            return torch.optim.AdamW(weights, lr=1e-2, fused=True)
        if kind == "muon":
            return Muon(by_kind({str(number): weight for number, weight in enumerate(weights)}), lr=1e-2, fused=True)
        return pytest.importorskip("prodigyopt").Prodigy(weights, lr=1.0, safeguard_warmup=True)

    whole, halved = parameters(), parameters()
    walk(make(whole), whole, range(10))
    first = make(halved)
    walk(first, halved, range(5))
    tensors, rest = optimizer_tensors(first)
    second = make(halved)
    restore_optimizer(second, {key: value.clone() for key, value in tensors.items()}, rest)
    walk(second, halved, range(5, 10))
    for one, two in zip(whole, halved, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_poisoned_gradient_leaves_weights_and_state_alone(kind: Literal["adamw", "muon"]) -> None:
    weights = parameters()
    optimizer = torch.optim.AdamW(weights, lr=1e-2, fused=True)
    if kind == "muon":
        optimizer = Muon(by_kind({str(number): weight for number, weight in enumerate(weights)}), lr=1e-2, fused=True)
    updater = Updater(
        optimizer=optimizer,
        parameters=weights,
        config=OptimConfig(optimizer=kind),
        max_steps=10,
        loss_scale=LossScale(False),
    )
    walk(optimizer, weights, range(1))
    before = [weight.detach().clone() for weight in weights], optimizer_tensors(optimizer)[0]
    before = before[0], {key: value.clone() for key, value in before[1].items()}
    for weight in weights:
        weight.grad = torch.full_like(weight, float("nan"))
    _, finite = updater.apply(torch.tensor(True))
    assert not bool(finite)
    assert all(torch.equal(one, two) for one, two in zip(before[0], weights, strict=True))
    assert all(torch.equal(value, before[1][key]) for key, value in optimizer_tensors(optimizer)[0].items())


def test_the_loss_scale_halves_on_overflow_and_doubles_after_2000_good_steps() -> None:
    scale = LossScale(True, value=1024.0)
    scale.adjust(finite=False)
    assert scale.value == 512.0
    for _ in range(2000):
        scale.adjust(finite=True)
    assert scale.value == 1024.0


def test_the_average_follows_and_swaps_back() -> None:
    weights = parameters()
    ema = Ema({str(number): weight for number, weight in enumerate(weights)}, 0.9)
    start = [weight.detach().clone() for weight in weights]
    for step in range(50):
        for weight in weights:
            weight.data += 1
        ema.update(step)
    lag = [float((weight - shadow).mean()) for weight, shadow in zip(weights, ema.shadow, strict=True)]
    assert all(0 < value < 12 for value in lag)
    now = [weight.detach().clone() for weight in weights]
    ema.swap()
    assert not torch.equal(weights[0], now[0])
    ema.swap()
    assert torch.equal(weights[0], now[0])
    assert not torch.equal(weights[0], start[0])
