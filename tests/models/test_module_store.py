"""Parts of a model come and go, and gradient checkpointing changes memory only."""

import pytest
import torch
from torch import nn

from loraloom.models.module_store import ModuleStore
from loraloom.utils.errors import UserError


class Stack(nn.Module):
    """Three blocks without gradient checkpointing of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.calls = 0
        self.blocks[0].register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            values = block(values)
        return values


def store(blocks: dict[str, str] | None = None) -> tuple[ModuleStore, list[str]]:
    read: list[str] = []

    def load(part: str) -> nn.Module:
        read.append(part)
        torch.manual_seed(0)
        return Stack()

    return ModuleStore(load, lambda part: f"sum of {part}", build=lambda part: Stack(), blocks=blocks), read


def gradients(module: nn.Module) -> list[torch.Tensor]:
    module.train().requires_grad_(True).zero_grad()
    values = torch.linspace(-1, 1, 16).reshape(2, 8)
    module(values).square().sum().backward()
    found = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def test_a_part_is_read_once_frozen_and_again_after_it_was_dropped() -> None:
    modules, read = store()
    module = modules.get("denoiser")
    assert modules.get("denoiser") is module
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    modules.drop("denoiser")
    assert not modules.loaded("denoiser")
    assert modules.get("denoiser") is not module
    assert read == ["denoiser", "denoiser"]


def test_a_skeleton_has_names_and_shapes_and_reads_no_weights() -> None:
    modules, read = store()
    skeleton = modules.skeleton("denoiser")
    assert modules.skeleton("denoiser") is skeleton
    assert not read
    assert not modules.loaded("denoiser")
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    wanted = {name: value.shape for name, value in modules.get("denoiser").state_dict().items()}
    assert {name: value.shape for name, value in skeleton.state_dict().items()} == wanted


def test_checkpointed_blocks_give_the_same_gradients_bit_for_bit_and_run_twice() -> None:
    plain = gradients(store()[0].get("denoiser"))
    modules, _ = store({"denoiser": "blocks"})
    modules.checkpoint_gradients("denoiser")
    modules.checkpoint_gradients("denoiser")  # wrapping twice changes nothing
    module = modules.get("denoiser")
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(module), strict=True))
    assert module.calls == 1  # the hook is outside the part of the call that is computed again
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, 8))
    assert module.calls == 2


def test_a_part_without_blocks_says_that_it_cannot_be_checkpointed() -> None:
    modules, _ = store()
    with pytest.raises(UserError, match="no gradient checkpointing"):
        modules.checkpoint_gradients("denoiser")
