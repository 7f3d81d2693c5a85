"""Augmented variants: the subject stays whole, words stay true, and the same run sees the same variants."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.data.augment import WHOLE, Augmentation, augmented_pixels, crop_box
from loraloom.data.batches import BatchMaker, can_flip, geometry_of, refuse_blind_flips
from loraloom.data.encode import load_pixels
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError
from loraloom.utils.saliency import saliency_map, subject_box
from tests.support.images import save

ROW = Example(
    id="cat", image="images/cat.png", caption="a cat", caption_found=None, split="train", width=128, height=96,
    sha256="0" * 64, source_sha256="1" * 64, source_width=300, source_height=192, crop=(20, 0, 276, 192), scale=0.5,
    num_tokens=None,
)  # fmt: skip
FREETEXT, PLANS = (plugins.load("domains", name) for name in ("freetext", "floorplan"))


def spot(left: int, top: int) -> Image.Image:
    """A textured spot of 20 x 20 pixels on plain grey."""
    image = Image.new("RGB", (128, 96), (120, 125, 130))
    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    image.paste(Image.fromarray(pixels), (left, top))
    return image


edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(across=edges, down=edges, most=st.floats(0, 0.5), shares=st.tuples(*[st.floats(0, 0.999)] * 3))
@settings(max_examples=200, deadline=None)
def test_a_crop_has_the_whole_subject_and_never_cuts_more_than_is_allowed(
    across: list[float], down: list[float], most: float, shares: tuple[float, float, float]
) -> None:
    subject = across[0], down[0], across[1], down[1]
    left, top, right, bottom = crop_box(subject, most, np.array(shares))
    near = 1e-9
    assert left <= subject[0] + near
    assert top <= subject[1] + near
    assert right >= subject[2] - near
    assert bottom >= subject[3] - near
    assert 0 <= left < right <= 1 + near
    assert 0 <= top < bottom <= 1 + near
    assert right - left >= 1 - most - near
    assert right - left == pytest.approx(bottom - top, abs=1e-6)  # the aspect ratio stays


@pytest.mark.parametrize(("left", "top"), [(4, 6), (100, 70), (54, 38), (100, 6)])
def test_the_subject_is_found_where_the_image_has_detail(left: int, top: int) -> None:
    box = subject_box(saliency_map(spot(left, top)), margin=0.0)
    middle = (box[0] + box[2]) / 2 * 128, (box[1] + box[3]) / 2 * 96
    assert abs(middle[0] - (left + 10)) < 14
    assert abs(middle[1] - (top + 10)) < 14
    assert (box[2] - box[0]) * (box[3] - box[1]) < 0.35


def test_a_plain_image_has_no_subject_to_keep() -> None:
    assert subject_box(saliency_map(Image.new("RGB", (64, 64), "white"))) == WHOLE


def test_a_variant_is_the_same_in_every_run_and_another_seed_gives_others(tmp_path: Path) -> None:
    save(spot(54, 38), tmp_path / ROW.image)
    made = Augmentation(variants=4, crop=0.3, light=0.2, seed=1)
    made.find_subjects(tmp_path, [ROW])
    first, *variants = made.all_of(ROW)
    assert first is ROW
    assert len({variant.sha256 for variant in variants} | {ROW.sha256}) == 5
    again = Augmentation(variants=4, crop=0.3, light=0.2, seed=1)
    again.find_subjects(tmp_path, [ROW])
    assert again.all_of(ROW) == made.all_of(ROW)
    other = replace(made, seed=2)
    assert other.variant(ROW, 1).sha256 != made.variant(ROW, 1).sha256


def test_pixels_and_geometry_of_a_crop_agree(tmp_path: Path) -> None:
    image = spot(54, 38)
    save(image, tmp_path / ROW.image)
    made = Augmentation(variants=1, crop=0.4, seed=3)
    made.find_subjects(tmp_path, [ROW])
    variant = made.variant(ROW, 1)
    left, top, right, bottom = variant.box  # pyright: ignore[reportAttributeAccessIssue]
    shown = augmented_pixels(image, variant)
    assert shown.size == image.size
    whole = image.crop((round(left * 128), round(top * 96), round(right * 128), round(bottom * 96)))
    distance = np.abs(np.asarray(shown, float) - np.asarray(whole.resize(image.size), float)).mean()
    assert distance < 12
    assert not np.array_equal(np.asarray(shown), np.asarray(image))
    source = variant.crop
    assert source[0] == pytest.approx(20 + left * 256, abs=1)
    assert variant.scale * (source[2] - source[0]) == pytest.approx(128, abs=1)
    assert geometry_of(variant, False).target == (128, 96)
    assert load_pixels(tmp_path, variant).shape == (3, 96, 128)
    assert load_pixels(tmp_path, ROW).sub(load_pixels(tmp_path, variant)).abs().max() > 0.1


def test_light_changes_and_hues_do_not(tmp_path: Path) -> None:
    image = Image.new("RGB", (128, 96), (200, 40, 40))
    save(image, tmp_path / ROW.image)
    made = Augmentation(variants=8, crop=0.0, light=0.4, seed=0)
    seen = {augmented_pixels(image, variant).getpixel((5, 5)) for variant in made.all_of(ROW)[1:]}
    assert len(seen) == 8
    for red, green, blue in seen:  # pyright: ignore[reportGeneralTypeIssues]
        assert red > green == blue


def test_a_domain_whose_colours_have_a_meaning_refuses_augmentation() -> None:
    text = "SJH-Style FloorPlan Generation\n[Number and Type of Rooms]\nThe floorplan have 1 living room"
    plan = replace(ROW, caption=text)
    with pytest.raises(UserError, match="the colours of 1 of 1 images have a meaning"):
        Augmentation(variants=2, light=0.1).refuse([plan], PLANS)
    Augmentation(variants=0, light=0.1).refuse([plan], PLANS)
    Augmentation(variants=2, light=0.1).refuse([ROW], FREETEXT)


def test_images_that_cannot_be_mirrored_are_an_error_or_are_kept_and_counted() -> None:
    rows = [replace(ROW, caption="a cat on the left"), replace(ROW, id="dog", more_captions=("a left hand",))]
    assert can_flip(rows[0], FREETEXT)
    assert not can_flip(rows[1], FREETEXT)
    with pytest.raises(UserError, match="1 of 3 captions speak of left and right"):
        refuse_blind_flips(rows, FREETEXT)
    line = refuse_blind_flips(rows, FREETEXT, "keep")
    assert line is not None
    assert "1 image not mirrored, such as dog caption 2" in line
    assert refuse_blind_flips(rows[:1], FREETEXT) is None


def test_each_epoch_takes_one_of_an_images_captions_and_all_have_their_turn() -> None:
    row = replace(ROW, more_captions=("a cat on the left", "a tabby"))
    nothing: Any = None  # neither latents nor embeddings are asked for
    maker = BatchMaker(examples=[row], latents=nothing, texts=nothing, domain=FREETEXT, seed=5)
    taken = [maker.caption(row, False, epoch) for epoch in range(90)]
    assert taken == [maker.caption(row, False, epoch) for epoch in range(90)]
    counts = Counter(taken)
    assert set(counts) == set(row.captions)
    assert min(counts.values()) > 15
    assert {maker.caption(row, True, epoch) for epoch in range(90)} == {"a cat", "a cat on the right", "a tabby"}
    assert maker.needed_captions() == list(row.captions)
    assert set(replace(maker, random_flip=True).needed_captions()) == {*row.captions, "a cat on the right"}
