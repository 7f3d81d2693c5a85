"""Swapped blocks change where weights lie and nothing else: same answers, same gradients, whatever the order."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loraloom.models.block_swap import BlockSwap, count_blocks, repeated_blocks
from loraloom.models.module_store import ModuleStore
from loraloom.utils.errors import UserError

CPU = torch.device("cpu")


class Block(nn.Module):
    """A frozen matrix, a frozen convolution in another memory layout, and a small part that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.learns = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.conv = nn.Conv2d(2, 2, 3, padding=1).to(memory_format=torch.channels_last)
        self.register_buffer("table", torch.arange(8.0))
        self.seen: list[int] = []

    def forward(self, values: Tensor) -> Tensor:
        self.seen.append(self.wide.weight.data_ptr())
        mixed = self.conv(values.reshape(-1, 2, 2, 2)).reshape(values.shape)
        return torch.tanh(self.wide(values) + self.learns(mixed) + 0.01 * self.table)


class Net(nn.Module):
    """Blocks in a list, and weights outside it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.outer = False

    def forward(self, values: Tensor) -> Tensor:
        values = self.first(values)
        for block in self.blocks:
            values = checkpoint(block, values, use_reentrant=False) if self.outer else block(values)
        return self.last(values)


def net(count: int) -> Net:
    torch.manual_seed(0)
    made = Net(count).requires_grad_(False).train()
    for block in made.blocks:
        block.learns.requires_grad_(True)
    return made


VALUES = torch.linspace(-1, 1, 32).view(4, 8)


def gradients(module: nn.Module) -> Iterator[Tensor]:
    module.zero_grad()
    module(VALUES).square().sum().backward()
    for parameter in module.parameters():
        if parameter.grad is not None:
            yield parameter.grad.clone()


@given(count=st.integers(1, 7), share=st.floats(0.01, 0.99), outer=st.booleans(), data=st.data())
@settings(max_examples=25)
def test_answers_and_gradients_are_the_same_to_the_bit(
    count: int, share: float, outer: bool, data: st.DataObject
) -> None:
    """Training steps, samples and validation come in any order."""
    plain, swapped = net(count), net(count)
    swapped.outer = outer
    BlockSwap(swapped, CPU, count_blocks(share, count, "net"))
    for kind in data.draw(st.lists(st.sampled_from(["step", "sample", "validation"]), min_size=1, max_size=5)):
        if kind == "step":
            wanted, found = list(gradients(plain)), list(gradients(swapped))
            assert len(wanted) == len(found) == count
            assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
        else:
            with torch.inference_mode() if kind == "sample" else torch.no_grad():
                assert torch.equal(plain(VALUES), swapped(VALUES))


def test_a_block_computes_with_a_copy_and_its_own_weights_stay_where_they_are() -> None:
    module = net(4)
    swap = BlockSwap(module, CPU, 2)
    assert swap.names == ("blocks.1", "blocks.3")
    homes = [block.wide.weight.data_ptr() for block in module.blocks]
    list(gradients(module))
    for index, block in enumerate(module.blocks):
        assert block.wide.weight.data_ptr() == homes[index]
        used = {place for place in block.seen if place != homes[index]}
        assert bool(used) == (index in {1, 3})
        assert len(block.seen) == (2 if index in {1, 3} else 1), "a swapped block computes again in the backward pass"


def test_the_next_copy_is_under_way_once_the_order_is_known() -> None:
    module = net(5)
    swap = BlockSwap(module, CPU, 5)
    list(gradients(module))
    copies, prefetched = swap.copies, swap.prefetched
    list(gradients(module))
    # 10 fetches a step: 5 forward, 5 backward; the last one forward is the first one backward and has been dropped.
    assert swap.copies - copies == 10
    assert swap.prefetched - prefetched >= 8


def test_frozen_weights_of_swapped_blocks_are_counted_and_what_learns_is_not_swapped() -> None:
    module = net(2)
    block: nn.Module = module.blocks[0]
    frozen = sum(4 * p.numel() for p in block.parameters() if not p.requires_grad)
    swap = BlockSwap(module, CPU, 2)
    assert 2 * frozen <= swap.swapped_bytes < 2 * frozen + 2 * 4 * 256
    assert swap.largest_bytes * 2 == swap.swapped_bytes


def test_weights_that_two_blocks_share_stay_on_the_device() -> None:
    module = net(3)
    module.blocks[2].wide.weight = module.blocks[0].wide.weight
    plain = list(gradients(module))
    BlockSwap(module, CPU, 3)
    assert module.blocks[2].wide.weight is module.blocks[0].wide.weight
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(module), strict=True))


def test_a_large_level_is_taken_apart_into_the_blocks_inside_it() -> None:
    levels = nn.Module()
    levels.levels = nn.ModuleList()
    for count in (1, 12):
        level = nn.Module()
        level.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(count))
        level.sampler = nn.Linear(4, 4)
        levels.levels.append(level)
    names = list(repeated_blocks(levels))
    assert names == ["levels.0.blocks.0", *(f"levels.1.blocks.{index}" for index in range(12))]


@pytest.mark.parametrize(("wish", "count"), [(1, 1), (10, 10), (0.5, 5), (0.001, 1), (0.999, 10)])
def test_a_number_or_a_share_of_blocks_is_understood(wish: float, count: int) -> None:
    assert count_blocks(wish, 10, "denoiser") == count


@pytest.mark.parametrize("wish", [11, 1.5, -1])
def test_more_blocks_than_there_are_is_an_error_that_says_how_many(wish: float) -> None:
    with pytest.raises(UserError, match="1 to 10 blocks"):
        count_blocks(wish, 10, "denoiser")


def test_a_module_without_blocks_is_an_error() -> None:
    store = ModuleStore(lambda part: nn.Linear(2, 2), lambda part: "", build=lambda part: nn.Linear(2, 2))
    with pytest.raises(UserError, match="no list of blocks"):
        store.swap_blocks("denoiser", CPU, 1)


def test_gradient_checkpointing_of_the_store_leaves_swapped_blocks_alone() -> None:
    module = net(2)
    store = ModuleStore(lambda part: module, lambda part: "", build=lambda part: net(2), blocks={"denoiser": "blocks"})
    store.get("denoiser")
    for block in module.blocks:
        block.learns.requires_grad_(True)
    store.swap_blocks("denoiser", CPU, 1)
    store.checkpoint_gradients("denoiser")
    module.train()
    plain = list(gradients(net(2)))
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(module), strict=True))
    assert [len(block.seen) for block in module.blocks] == [2, 2]


def test_a_dropped_part_forgets_its_swap() -> None:
    store = ModuleStore(lambda part: net(3), lambda part: "", build=lambda part: net(3))
    store.swap_blocks("denoiser", CPU, 1)
    assert store.place("denoiser", CPU, torch.float32) is store.get("denoiser")
    store.drop("denoiser")
    store.place("denoiser", CPU, torch.float64)
    assert store.get("denoiser").first.weight.dtype == torch.float64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_answers_are_the_same_and_memory_is_lower() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2048, 2048), nn.Linear(2048, 8)) for _ in range(12))

        def forward(self, values: Tensor) -> Tensor:
            for block in self.blocks:
                values = values + nn.functional.pad(block(values), (0, 2040))
            return values

    found: list[Tensor] = []
    peaks: list[int] = []
    for count in (0, 12):
        torch.manual_seed(0)
        module = Wide().requires_grad_(False)
        for block in module.blocks:
            block[1].requires_grad_(True)
        device = torch.device("cuda")
        if count:
            BlockSwap(module, device, count)
        else:
            module.to(device)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            module.zero_grad()
            module(torch.ones(4, 2048, device=device)).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).cpu())
        peaks.append(torch.cuda.max_memory_allocated())
        del module
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert peaks[1] < 0.6 * peaks[0]
