"""Aspect-ratio buckets: the few sizes that prepared images have, so that a batch can be made of equals.

In: the side of the square whose area every bucket has about, a step, the longest aspect ratio. Out: sizes in pixels.
"""

import math
from collections.abc import Sequence

from loraloom.utils.errors import UserError


def aspect_buckets(size_px: int, step_px: int, max_aspect: float) -> list[tuple[int, int]]:
    """All (width, height) in multiples of `step_px` with an area just up to `size_px` squared, widest last.

    For every side the other one is the longest multiple that keeps the area (as in NovelAI's bucketing, 2022), so no
    bucket needs more memory than the square. With every (w, h) there is (h, w).

    Args:
        size_px: Side of the square, pixels.
        step_px: Every side is a multiple of this, pixels.
        max_aspect: Longest ratio of long to short side, at least 1.

    Raises:
        UserError: The step is longer than the side.
    """
    if step_px > size_px:
        raise UserError(
            "the bucket step is longer than the side",
            got=f"bucket_step {step_px}, size {size_px}",
            expected=f"a bucket_step of at most {size_px}",
            fix="lower --bucket-step or raise --size",
        )
    square = size_px // step_px * step_px
    buckets = {(square, square)}
    for long in range(square, int(size_px * math.sqrt(max_aspect)) + step_px + 1, step_px):
        short = size_px * size_px // long // step_px * step_px
        if 0 < short <= long <= max_aspect * short:
            buckets |= {(long, short), (short, long)}
    return sorted(buckets, key=lambda bucket: (bucket[0] / bucket[1], bucket))


def nearest_bucket(width: int, height: int, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest (as a ratio: 2:1 is as far from 1:1 as 1:2); of equals the largest."""
    aspect = math.log(width / height)
    return min(
        buckets, key=lambda bucket: (abs(math.log(bucket[0] / bucket[1]) - aspect), -bucket[0] * bucket[1], bucket)
    )
