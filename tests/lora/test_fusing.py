"""Layers that other programs hold as one: fused and taken apart again, the update stays what it was."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loraloom.lora.fusing import fuse, split
from loraloom.lora.layers import LoraLayer


def layer(rows: int, rank: int, alpha: float, seed: int, module: str = "qkv") -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 6, generator=generator), torch.randn(rows, rank, generator=generator)
    return LoraLayer(part="denoiser", module=module, down=down, up=up, alpha=alpha)


def change(update: LoraLayer | None, rows: int) -> Tensor:
    """The update as a matrix."""
    if update is None:
        return torch.zeros(rows, 6)
    return update.alpha / len(update.down) * update.up @ update.down


PARTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.floats(0.5, 8.0), st.booleans()), min_size=1, max_size=4
).filter(lambda parts: any(present for *_, present in parts))


@given(PARTS, st.integers(0, 1000))
def test_a_fused_layer_is_its_parts_one_below_the_other_and_splits_into_them(
    parts: list[tuple[int, int, float, bool]], seed: int
) -> None:
    rows = [size for size, *_ in parts]
    names = [f"part{number}" for number in range(len(parts))]
    members = [
        layer(size, rank, alpha, seed + number, names[number]) if present else None
        for number, (size, rank, alpha, present) in enumerate(parts)
    ]
    fused = fuse("qkv", members, rows)
    wanted = [change(each, size) for each, size in zip(members, rows, strict=True)]
    torch.testing.assert_close(change(fused, sum(rows)), torch.cat(wanted))
    for each, own, size, expected in zip(split(fused, names, rows), members, rows, wanted, strict=True):
        torch.testing.assert_close(change(each, size), expected)
        assert (each is None) == (own is None)
        if each is not None and own is not None:
            assert (each.part, each.module) == (own.part, own.module)
            assert each.rank == own.rank  # its own rank, not the sum of all


def test_a_qkv_that_was_trained_as_one_keeps_its_rank_in_every_part() -> None:
    """sd-scripts trains one A for q, k and v: each part then has that A and its rows of B."""
    one = layer(12, 4, 2.0, 7)
    parts = split(one, ["q", "k", "v"], [4, 4, 4])
    assert all(part is not None and torch.equal(part.down, one.down) and part.alpha == 2.0 for part in parts)
    torch.testing.assert_close(torch.cat([change(part, 4) for part in parts]), change(one, 12))


def test_an_untrained_layer_keeps_all_its_parts() -> None:
    one = layer(6, 2, 2.0, 1)
    parts = split(replace(one, up=torch.zeros_like(one.up)), ["q", "k"], [3, 3])
    assert all(part is not None and part.rank == 2 for part in parts)
