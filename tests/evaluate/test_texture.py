"""Texture similarity: a definition in numbers, and the drawn styles told apart without an extractor."""

import numpy as np
import pytest
from PIL import Image

from loraloom.extensions.domains.scenes.rendering import synthesize
from loraloom.extensions.metrics.texture import SIDE_PX, kernel_means, texture
from tests.support.images import drawn

STYLES = ("anime", "watercolour", "cartoon")
NUM = 12


@pytest.fixture(scope="module")
def textures() -> dict[str, np.ndarray]:
    """(2 NUM, 30) of scenes in each style."""
    return {
        style: np.stack([texture(synthesize(seed, style).image) for seed in range(2 * NUM)]).astype(float)
        for style in STYLES
    }


def test_images_of_a_style_are_more_like_that_style_than_images_of_other_styles_are(
    textures: dict[str, np.ndarray],
) -> None:
    """The images that are compared show other scenes than the references."""
    for style in STYLES:
        likeness = {other: kernel_means(textures[other][:NUM], textures[style][NUM:])[0].mean() for other in STYLES}
        assert likeness[style] == max(likeness.values()), likeness


def test_the_similarity_is_the_mean_of_the_kernel_over_the_references(textures: dict[str, np.ndarray]) -> None:
    rows, references = textures["anime"][:3], textures["cartoon"][:4]
    expected = [np.mean([np.exp(-np.mean((row - other) ** 2) / (2 * 0.35**2)) for other in references]) for row in rows]
    values, places = kernel_means(rows, references)
    assert values == pytest.approx(expected, abs=1e-9)
    nearest = [int(np.argmin([np.sum((row - other) ** 2) for other in references])) for row in rows]
    assert places.tolist() == nearest
    assert kernel_means(rows[:1], rows[:1])[0] == pytest.approx([1.0])


@pytest.mark.parametrize("size", [(SIDE_PX, SIDE_PX), (512, 512), (300, 200), (16, 100), (3, 3)])
def test_an_image_of_any_size_and_mode_gives_finite_numbers(size: tuple[int, int]) -> None:
    image = drawn(1, *size)
    for mode in ("RGB", "L", "RGBA", "P"):
        numbers = texture(image.convert(mode))
        assert numbers.shape == (30,)
        assert np.isfinite(numbers).all()


def test_a_flat_image_gives_finite_numbers_and_the_same_at_every_scale() -> None:
    small, large = (texture(Image.new("RGB", (side, side), "#8090a0")) for side in (SIDE_PX, 4 * SIDE_PX))
    assert np.isfinite(small).all()
    assert small == pytest.approx(large, abs=1e-3)


def test_grain_moves_an_image_away_from_its_smooth_self() -> None:
    image = drawn(2, 256, 256)
    noise = np.random.default_rng(0).normal(0, 12, (256, 256, 1))
    grainy = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    smooth, rough, larger = (texture(one).astype(float)[None] for one in (image, grainy, image.resize((512, 512))))
    assert kernel_means(larger, smooth)[0][0] > kernel_means(rough, smooth)[0][0] + 0.2
