"""Near-duplicates and the split that respects them."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom.prepare.duplicates import held_out, near_duplicate_groups
from loraloom.utils.perceptual_hash import perceptual_hashes
from tests.support.images import drawn, encoded, shared_data

TURNS = [None, *Image.Transpose]


def as_array(hashes: list[tuple[int, ...]]) -> np.ndarray:
    return np.array(hashes, dtype=np.uint64)


def test_every_flip_and_turn_of_a_image_is_in_its_group_and_other_images_are_not() -> None:
    hashes = []
    for seed in range(6):
        for turn in TURNS:
            image = drawn(seed, 300, 200) if turn is None else drawn(seed, 300, 200).transpose(turn)
            hashes.append(perceptual_hashes(image))
    labels = near_duplicate_groups(as_array(hashes), 6).reshape(6, len(TURNS))
    assert all(len(set(row)) == 1 for row in labels.tolist())
    assert len(set(labels[:, 0].tolist())) == 6


def test_a_recompressed_smaller_mirrored_copy_is_a_near_duplicate_of_a_real_photograph() -> None:
    photographs = sorted(shared_data("dreambooth").glob("*/0[0-2].jpg"))  # 24 images
    hashes = []
    for path in photographs:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        copy = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((image.width // 2, image.height // 2))
        with Image.open(io.BytesIO(encoded(copy, "JPEG", quality=60))) as again:
            hashes += [perceptual_hashes(image), perceptual_hashes(again.convert("RGB"))]
    labels = near_duplicate_groups(as_array(hashes), 6).reshape(-1, 2)
    assert (labels[:, 0] == labels[:, 1]).all()
    assert len(set(labels[:, 0].tolist())) > 0.8 * len(photographs)


def test_a_symmetric_image_is_told_by_what_it_shows_and_not_by_rounding_noise() -> None:
    # The red cartoon of DreamBooth, halved, was 14 bits from itself: its odd frequencies were all but zero.
    half = drawn(3, 200, 400)
    image = Image.new("RGB", (400, 400))
    image.paste(half, (0, 0))
    image.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (200, 0))
    with Image.open(io.BytesIO(encoded(image.resize((190, 190)), "JPEG", quality=70))) as again:
        hashes = [perceptual_hashes(image), perceptual_hashes(again.convert("RGB"))]
    assert len(set(near_duplicate_groups(as_array(hashes), 6).tolist())) == 1


def test_groups_are_those_of_a_plain_pairwise_comparison() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (40, 8), dtype=np.uint64)
    hashes[20:] = hashes[:20] ^ np.uint64(0b111)  # three bits off
    labels = near_duplicate_groups(hashes, 3)
    assert len(set(labels.tolist())) == 20
    assert (labels[:20] == labels[20:]).all()
    assert len(set(near_duplicate_groups(hashes, 2).tolist())) == 40


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0.0, 0.5), st.integers(0, 3))
@settings(max_examples=80)
def test_a_group_is_never_torn_and_the_share_never_exceeded(labels: list[int], share: float, seed: int) -> None:
    contents = [f"{index:064x}" for index in range(len(labels))]
    chosen = held_out(labels, contents, share, seed)
    assert len({(label, held) for label, held in zip(labels, chosen, strict=True)}) == len(set(labels))
    assert sum(chosen) <= max(1, round(share * len(labels)))
    assert not all(chosen)
    if share == 0:
        assert not any(chosen)


def test_an_added_image_does_not_reshuffle_the_held_out_ones() -> None:
    contents = [f"{index:064x}" for index in range(201)]
    before = held_out(list(range(200)), contents[:200], 0.1, 0)
    after = held_out(list(range(201)), contents, 0.1, 0)
    moved = sum(old != new for old, new in zip(before, after[:200], strict=True))
    assert sum(before) == 20
    assert moved <= 1


def test_the_order_of_the_images_does_not_matter_to_the_split() -> None:
    contents = [f"{index:064x}" for index in range(50)]
    forward = held_out(list(range(50)), contents, 0.2, 0)
    backward = held_out(list(range(50)), contents[::-1], 0.2, 0)
    assert forward == backward[::-1]
