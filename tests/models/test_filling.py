"""A module is read one tensor at a time: no two tensors are in memory in full precision when they are stored in low bits."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from loraloom.models.filling import fill, from_files
from loraloom.models.low_bits import LowBitLinear, LowBits, plain_weight, store
from loraloom.models.module_store import ModuleStore
from loraloom.utils.errors import UserError


def network() -> nn.Module:
    module = nn.Module()
    module.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)) for _ in range(4))
    module.last = nn.Linear(64, 8)
    module.register_buffer("table", torch.arange(6.0).view(2, 3))
    return module.requires_grad_(False)


def empty() -> nn.Module:
    with torch.device("meta"):
        return network()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file({name: tensor.clone() for name, tensor in network().state_dict().items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def places(file: Path) -> dict[str, Path]:
    return dict.fromkeys(network().state_dict(), file)


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_weights_read_into_low_bits_are_those_that_are_stored_later(kind: LowBits, file: Path) -> None:
    later = fill(empty(), from_files(places(file), "part"), "part")
    assert torch.equal(later.get_buffer("table"), torch.arange(6.0).view(2, 3))
    assert store(later, kind) == 4
    got = fill(empty(), from_files(places(file), "part"), "part", kind)
    assert sum(isinstance(layer, LowBitLinear) for layer in got.modules()) == 4
    expected = later.state_dict()
    for name, tensor in got.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_no_two_large_tensors_are_in_memory_in_full_precision(file: Path) -> None:
    """A FLUX denoiser took 48 GB of CPU memory before it was stored in 7."""
    plain = from_files(places(file), "part")
    alive: list[weakref.ref[Tensor]] = []

    def read(name: str, shape: tuple[int, ...]) -> Tensor:
        assert all(one() is None for one in alive), name
        tensor = plain(name, shape)
        if name.startswith("blocks") and tensor.dim() == 2:
            alive.append(weakref.ref(tensor))
        return tensor

    module = fill(empty(), read, "part", "nf4")
    assert len(alive) == 4
    stored = [layer for layer in module.modules() if isinstance(layer, LowBitLinear)]
    assert sum(layer.weight.numel() + 4 * layer.scales.numel() for layer in stored) < 4 * 64 * 64


def test_a_weight_that_is_missing_misshapen_or_not_finite_is_named(file: Path, tmp_path: Path) -> None:
    state = network().state_dict()
    for change, reason in (
        ({"last.weight": torch.zeros(7, 64)}, r"last.weight of shape \[7, 64\]"),
        ({"blocks.2.0.weight": torch.full((64, 64), torch.nan)}, "holds NaN or infinity: got 'blocks.2.0.weight'"),
    ):
        other = tmp_path / "other.safetensors"
        save_file({**{name: tensor.clone() for name, tensor in state.items()}, **change}, other)
        with pytest.raises(UserError, match=reason):
            fill(empty(), from_files(places(other), "part"), "part", "fp8")
    fewer = {name: path for name, path in places(file).items() if name != "last.bias"}
    with pytest.raises(UserError, match=r"lacks a weight(.|\n)*last.bias"):
        fill(empty(), from_files(fewer, "part"), "part")


@pytest.mark.parametrize("own", [False, True])
def test_a_part_is_in_low_bits_whether_or_not_its_family_reads_it_so(own: bool, file: Path) -> None:
    reads: list[str] = []

    def small(part: str, kind: LowBits) -> nn.Module:
        reads.append(kind)
        return fill(empty(), from_files(places(file), part), part, kind)

    def load(part: str) -> nn.Module:
        return fill(empty(), from_files(places(file), part), part)

    extra: dict[str, Any] = {"load_small": small} if own else {}
    modules = ModuleStore(load, lambda part: part, build=lambda part: empty(), **extra)
    full = plain_weight(modules.get("denoiser").get_submodule("blocks.1.0")).clone()
    modules.drop("denoiser")
    modules.read_in_low_bits("denoiser", "fp8")
    layer = modules.get("denoiser").get_submodule("blocks.1.0")
    assert isinstance(layer, LowBitLinear)
    assert not layer.weight.requires_grad
    torch.testing.assert_close(plain_weight(layer), full, atol=1e-2, rtol=0.1)
    assert reads == (["fp8"] if own else [])
    modules.drop("denoiser")
    assert type(modules.get("denoiser").get_submodule("blocks.1.0")) is nn.Linear, (
        "exports are compared on full weights"
    )
