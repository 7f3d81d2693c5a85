"""Which precision this machine is quick in, by trying.

In: nothing. Out: a word for `train.mixed_precision`. Which CPUs have products in bfloat16 is no public knowledge of torch's.
"""

import time

import torch

from loraloom.config.run import Precision

BF16_TRIED = 512
"""Side of the matrices that `bf16_speed_up` multiplies: as large as layers of a small model."""
BF16_WORTH = 1.5
"""Products are half of a step: with less of a gain, casting eats it."""


def bf16_speed_up() -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in bfloat16, measured in some 50 ms.

    CPUs with instructions for it (AVX512-BF16, AMX, newer ARM) are faster, others convert back and forth and are slower.
    """

    def shortest_s(dtype: torch.dtype) -> float:
        matrix = torch.randn(BF16_TRIED, BF16_TRIED).to(dtype)
        times: list[float] = []
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            times.append(time.perf_counter() - began)
        return min(times)

    return shortest_s(torch.float32) / shortest_s(torch.bfloat16)


def quickest_precision() -> Precision:
    """`bf16` on a CPU that is clearly faster in it, else `no`."""
    return "bf16" if not torch.cuda.is_available() and bf16_speed_up() >= BF16_WORTH else "no"
