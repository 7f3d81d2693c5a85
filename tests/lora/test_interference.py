"""Interference is the cosine of the changes, and K-LoRA's table follows its rule, on matrices made here."""

import pytest
import torch
from torch import Tensor

from loraloom.lora.interference import interference
from loraloom.lora.klora import klora_table, style_weight

Pairs = dict[tuple[str, str], tuple[Tensor, Tensor]]


def pairs(seed: int, *names: str, rank: int = 3) -> Pairs:
    rng = torch.Generator().manual_seed(seed)
    return {
        ("denoiser", name): (torch.randn(rank, 20, generator=rng), torch.randn(16, rank, generator=rng))
        for name in names
    }


def test_the_cosine_is_that_of_the_whole_changes() -> None:
    first, second = pairs(0, "a", "b", "c"), pairs(1, "b", "c", "d", rank=5)
    found = interference(first, second)
    zero = torch.zeros(16, 20)
    names = ["a", "b", "c", "d"]
    vectors = [
        torch.cat([(p[1] @ p[0] if (p := of.get(("denoiser", name))) else zero).flatten() for name in names])
        for of in (first, second)
    ]
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(vectors[0], vectors[1], dim=0)), abs=1e-6)
    assert (found.shared, found.only_first, found.only_second) == (2, 1, 1)


def test_a_lora_interferes_fully_with_itself_and_not_with_one_of_other_layers() -> None:
    first = pairs(0, "a", "b")
    assert interference(first, first).cosine == pytest.approx(1)
    assert interference(first, first).overlap == pytest.approx(1)
    opposite = {place: (down, -up) for place, (down, up) in first.items()}
    assert interference(first, opposite).cosine == pytest.approx(-1)
    apart = interference(first, pairs(1, "c"))
    assert (apart.cosine, apart.overlap, apart.shared) == (0.0, 0.0, 0)


def test_orthogonal_inputs_do_not_overlap() -> None:
    down = torch.eye(20)
    first = {("denoiser", "a"): (down[:3], torch.randn(16, 3))}
    second = {("denoiser", "a"): (down[3:6], torch.randn(16, 3))}
    found = interference(first, second)
    assert (found.cosine, found.overlap) == (pytest.approx(0), pytest.approx(0))


def test_klora_chooses_the_larger_one_and_the_style_gains_with_the_steps() -> None:
    """With equal sums the ratio is 1: the subject acts while S(t) < 1, as the published rule has it."""
    subject = {("denoiser", "a"): torch.eye(8)}
    table = klora_table(subject, {("denoiser", "a"): torch.eye(8)}, {("denoiser", "a"): (2, 2)})
    assert table.ratios["denoiser", "a"] == pytest.approx(1)
    acts = [table.subject_acts(("denoiser", "a"), step, 30) for step in range(30)]
    assert acts == [style_weight(step / 30) < 1 for step in range(30)]
    assert acts[0] and not acts[15]


def test_klora_divides_by_the_mean_ratio_of_the_absolute_sums() -> None:
    a, b = ("denoiser", "a"), ("denoiser", "b")
    subject = {a: 2 * torch.eye(8), b: 4 * torch.eye(8)}
    style = {a: torch.eye(8), b: torch.eye(8)}
    table = klora_table(subject, style, {a: (1, 1), b: (1, 1)})
    assert table.ratios[a] == pytest.approx(2 / 3)
    assert table.ratios[b] == pytest.approx(4 / 3)
