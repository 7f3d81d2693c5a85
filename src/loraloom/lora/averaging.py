"""Averages of a run's checkpoints, made after the training: post-hoc EMA of adapter weights.

In: adapter files of one run by step, and how long the average is. Out: an adapter file of the same rank and keys.

The profile is the power function of Karras et al. 2024 ("Analyzing and Improving the Training Dynamics of Diffusion Models",
arXiv 2312.02696, section 3.1): at the end t of the training the weights of step s count in proportion to s^g. Its length is
the relative standard deviation sigma = sqrt(g + 1) / ((g + 2) sqrt(g + 3)), a share of the training; 0.289 is the plain
mean. The paper keeps two running averages and solves for others; a run here keeps plain checkpoints, so the integral over
the training becomes a sum: the checkpoint of step s_i stands for the steps from s_(i-1) to s_i,

    weight_i = (s_i^(g+1) - s_(i-1)^(g+1)) / (s_n^(g+1) - s_0^(g+1))

where s_0 is as far before s_1 as s_2 is after it, and 0 at least: steps whose checkpoints were deleted do not count. What is
averaged are the matrices A and B, which `--ema-decay` averages too; the product of averages is not the average of products,
but near it where checkpoints of one run follow each other.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loraloom.lora.files import AdapterFile, save_adapter
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_tensors

LONGEST = math.sqrt(1 / 3) / 2
"""Sigma of the plain mean, 0.2887."""


def exponent_of(sigma: float) -> float:
    """The exponent g of the power function whose relative standard deviation is `sigma`, above 0 and up to `LONGEST`."""
    assert 0 < sigma <= LONGEST, sigma
    low, high = 0.0, 2.0 / sigma
    for _ in range(100):
        middle = (low + high) / 2
        if math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3)) > sigma:
            low = middle
        else:
            high = middle
    return low


def average_weights(steps: Sequence[int], sigma: float) -> list[float]:
    """How much each checkpoint counts; the sum is 1.

    Args:
        steps: Steps of the checkpoints, ascending, two or more.
        sigma: Length of the average as a share of the training, above 0 and up to `LONGEST`.
    """
    power = exponent_of(sigma) + 1
    first = max(0, 2 * steps[0] - steps[1])
    ends = [(step / steps[-1]) ** power for step in (first, *steps)]
    return [(after - before) / (ends[-1] - ends[0]) for before, after in pairwise(ends)]


def average_adapters(files: Mapping[int, AdapterFile], sigma: float, path: Path) -> Mapping[int, float]:
    """Write the average of a run's checkpoints, and return how much each step counts.

    Args:
        files: Adapter file by step, two or more.
        sigma: Length of the average, see `average_weights`.
        path: The file to write; its folder is made. The record is that of the last checkpoint, with `average` in it.

    Raises:
        UserError: The checkpoints have tensors of different names or shapes, or steps that are not above 0.
    """
    steps = sorted(files)
    if steps[0] < 1:
        raise UserError("a checkpoint of step 0 cannot be averaged", got=str(files[steps[0]].path))
    weights = dict(zip(steps, average_weights(steps, sigma), strict=True))
    last = files[steps[-1]]
    for step in steps:
        if _shapes(files[step]) != _shapes(last):
            raise UserError(
                "these checkpoints have different layers or ranks and cannot be averaged",
                got=f"{files[step].path} and {last.path}",
                fix="are they of one run? leave averages out with --ema none",
            )
    sums: dict[str, Tensor] = {}
    for step in steps:
        for key, tensor in read_tensors(files[step].path)[0].items():
            part = weights[step] * tensor.to(torch.float64)
            sums[key] = sums[key] + part if key in sums else part
    record: dict[str, Any] = {
        **last.record,
        "average": {"sigma_rel": sigma, "weights": {str(step): weight for step, weight in weights.items()}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(path, {key: tensor.to(torch.float32) for key, tensor in sums.items()}, record)
    return weights


def _shapes(file: AdapterFile) -> dict[str, tuple[int, ...]]:
    return {key: info.shape for key, info in file.infos.items()}
