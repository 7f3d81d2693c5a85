"""Aspect-ratio buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.prepare.buckets import aspect_buckets, nearest_bucket
from loraloom.utils.errors import UserError

sizes = st.tuples(st.integers(64, 2048), st.sampled_from([8, 16, 32, 64]), st.floats(1.0, 8.0))


@given(sizes)
def test_every_bucket_is_a_multiple_within_area_and_aspect_and_has_its_mirror(case: tuple[int, int, float]) -> None:
    size, step, aspect = case
    buckets = aspect_buckets(size, step, aspect)
    assert (size // step * step, size // step * step) in buckets
    assert len(set(buckets)) == len(buckets)
    for width, height in buckets:
        assert width % step == height % step == 0
        assert width * height <= size * size
        assert max(width, height) <= aspect * min(width, height)
        assert (height, width) in buckets


def test_the_buckets_of_512_are_the_known_ones() -> None:
    assert aspect_buckets(512, 64, 2.0) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]


def test_the_nearest_bucket_has_the_nearest_ratio() -> None:
    buckets = aspect_buckets(512, 64, 2.0)
    assert nearest_bucket(1500, 1500, buckets) == (512, 512)
    assert nearest_bucket(3000, 2000, buckets) == (640, 384)
    assert nearest_bucket(2000, 3000, buckets) == (384, 640)
    assert nearest_bucket(10_000, 10, buckets) == (640, 384)


def test_a_step_longer_than_the_side_is_an_error() -> None:
    with pytest.raises(UserError, match="bucket_step 64, size 32"):
        aspect_buckets(32, 64, 2.0)
