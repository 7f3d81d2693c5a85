"""Which precision this CPU is quick in, by trying.

In: nothing. Out: a word for `train.mixed_precision` on a CPU. Torch does not tell which CPUs have products in bfloat16.
"""

import time

import torch

from loraloom.config.run import Precision

BF16_TRIED = 512
"""Side of the matrices that `bf16_speed_up` multiplies: as large as layers of a small model."""
ROUNDS = 20
LEAST_ROUNDS, ENOUGH_S = 3, 0.5
"""Without instructions for it a product in bfloat16 takes 70 times as long as in float32: a few tell that."""
BF16_WORTH = 1.5
"""Products are half of a step: with less of a gain, casting eats it."""


def bf16_speed_up() -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in bfloat16, measured in less than a second.

    CPUs with instructions for it (AVX512-BF16, AMX, newer ARM) are faster, others convert back and forth and are slower.
    """
    matrices = [torch.randn(BF16_TRIED, BF16_TRIED).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    best_s = [float("inf")] * 2
    end = time.perf_counter() + ENOUGH_S
    for number in range(ROUNDS):  # by turns, and the best of each: a busy machine slows now one, now the other
        if number >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for place, matrix in enumerate(matrices):
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            best_s[place] = min(best_s[place], time.perf_counter() - began)
    return best_s[0] / best_s[1]


def cpu_precision(speed_up: float) -> Precision:
    """The quickest precision on a CPU, by how many times as fast it multiplies in bfloat16."""
    return "bf16" if speed_up >= BF16_WORTH else "no"
