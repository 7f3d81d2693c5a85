"""Muon agrees with torch's where torch has one, and with AdamW for the rest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loraloom.train.muon import Muon, by_kind, is_matrix, orthogonalise


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def walk(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int) -> None:
    for step in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()


@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.floats(1e-4, 1e4), st.integers(0, 100))
def test_singular_values_come_near_one_whatever_the_scale(
    n: int, rows: int, columns: int, scale: float, seed: int
) -> None:
    matrices = torch.randn(n, rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    before = torch.linalg.svd(matrices, full_matrices=False)
    after = torch.linalg.svdvals(orthogonalise(matrices))
    share = before.S / before.S.norm(dim=-1, keepdim=True)
    strong = share > 0.02  # five iterations lift no fainter direction
    assert (after[..., 0] < 1.3).all()
    assert (torch.linalg.vecdot(before.U.mT, (orthogonalise(matrices) @ before.Vh.mT).mT)[strong] > 0.5).all()


def test_a_matrix_without_a_gradient_to_follow_stays() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_matrices_move_as_torchs_muon_moves_them(shape: tuple[int, int]) -> None:
    ours, theirs = parameter(*shape), parameter(*shape)
    start = ours.detach().clone()
    walk(Muon(by_kind({"to_k": ours}), lr=1e-2, weight_decay=0.1), [ours], 5)
    walk(torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), [theirs], 5)
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()  # theirs iterates in bfloat16


def test_a_convolution_moves_as_the_matrix_of_its_output_channels() -> None:
    convolution = parameter(6, 2, 3, 3)
    matrix = nn.Parameter(convolution.detach().clone().reshape(6, 18))
    walk(Muon(by_kind({"conv1": convolution, "other.conv1": parameter(6, 2, 3, 3, seed=1)}), lr=1e-2), [convolution], 1)
    optimizer = Muon(by_kind({"to_k": matrix}), lr=1e-2)
    matrix.grad = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0)).reshape(6, 18)
    optimizer.step()
    assert torch.allclose(convolution.reshape(6, 18), matrix)


def test_vectors_embeddings_and_end_layers_move_as_adamw_moves_them() -> None:
    names = {
        "norm.bias": (5,),
        "token_embedding.weight": (7, 3),
        "conv_in.weight": (4, 3, 3, 3),
        "conv_out.weight": (3, 4, 3, 3),
    }
    ours = {name: parameter(*shape) for name, shape in names.items()}
    theirs = [parameter(*shape) for shape in names.values()]
    assert not any(is_matrix(name, value) for name, value in ours.items())
    walk(Muon(by_kind(ours), lr=1e-2, betas=(0.9, 0.99)), [*ours.values()], 5)
    walk(torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.99)), theirs, 5)
    assert all(torch.equal(one, two) for one, two in zip(ours.values(), theirs, strict=True))


def test_what_has_no_gradient_stays() -> None:
    with_gradient, without = parameter(4, 4), parameter(4, 4, seed=1)
    before = without.detach().clone()
    walk(Muon(by_kind({"a": with_gradient, "b": without}), lr=1e-2, weight_decay=0.1), [with_gradient], 2)
    assert torch.equal(without, before)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31))
def test_zeros_around_a_matrix_change_nothing_so_that_matrices_of_many_shapes_can_go_together(
    rows: int, columns: int, seed: int
) -> None:
    matrix = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(seed))
    filled = nn.functional.pad(matrix, (0, 64 - columns, 0, 16 - rows))
    whole = orthogonalise(filled)
    torch.testing.assert_close(whole[:, :rows, :columns], orthogonalise(matrix), atol=2e-4, rtol=2e-3)
    whole[:, :rows, :columns] = 0
    assert bool((whole == 0).all())
