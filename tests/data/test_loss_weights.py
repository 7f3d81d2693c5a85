"""Weights of latents say what was asked for: thin classes count more, and no image counts more than another."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loraloom import plugins
from loraloom.data.loss_weights import LatentWeights
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError

SCALE = 8
DOOR, WALL = (160, 100, 0), (95, 95, 95)
"""Of the floor plans' usual style."""


def example(folder: Path, pixels_hwc: np.ndarray, name: str = "a") -> Example:
    Image.fromarray(pixels_hwc).save(folder / f"{name}.png")
    height, width = pixels_hwc.shape[:2]
    return Example(
        id=name, image=f"{name}.png", caption="SJH-Style FloorPlan Generation", caption_found=None, split="train",
        width=width, height=height, sha256="", source_sha256="", source_width=width, source_height=height,
        crop=(0, 0, width, height), scale=1.0, num_tokens=None,
    )  # fmt: skip


def weigher(folder: Path, domain: str = "floorplan", **weights: float) -> LatentWeights:
    named = {name.replace("_", " "): weight for name, weight in weights.items()}
    return LatentWeights(named, plugins.load("domains", domain), folder, SCALE)


@given(
    places=st.lists(st.tuples(st.integers(0, 31), st.integers(0, 47)), max_size=6),
    door=st.floats(0, 50),
    wall=st.floats(0, 50),
)
def test_a_latent_weighs_as_its_weightiest_pixel_and_the_mean_is_one(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], door: float, wall: float
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    pixels = np.full((32, 48, 3), 255, np.uint8)
    pixels[5] = WALL
    for y, x in places:
        pixels[y, x] = DOOR
    expected = np.zeros((4, 6))
    for y in range(32):
        for x in range(48):
            colour = tuple(pixels[y, x].tolist())
            weight = door if colour == DOOR else wall if colour == WALL else 1.0
            expected[y // SCALE, x // SCALE] = max(expected[y // SCALE, x // SCALE], weight)
    found = weigher(folder, interior_door=door, wall=wall).of(example(folder, pixels))
    assert found.shape == (4, 6)
    assert found.dtype == torch.float32
    assert float(found.mean()) == pytest.approx(1, rel=1e-5)
    assert np.allclose(found.numpy(), expected / expected.mean(), rtol=1e-5)


def test_a_mirrored_image_has_mirrored_weights_and_a_near_colour_is_the_class(tmp_path: Path) -> None:
    pixels = np.full((16, 32, 3), 255, np.uint8)
    pixels[3:6, 2:15] = (169, 94, 11)  # as a JPEG leaves it
    one = weigher(tmp_path, interior_door=5)
    image = example(tmp_path, pixels)
    assert one.of(image).tolist()[0][0] == pytest.approx(5 * one.of(image).tolist()[1][3])
    assert torch.equal(one.of(image, mirrored=True), one.of(image).flip(1))
    assert one.share([image], "interior door") == pytest.approx(2 / 8)
    assert one.share([image], "wall") == 0


def test_a_colour_needs_no_domain(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[:8, :8] = DOOR
    image = example(tmp_path, pixels)
    named = weigher(tmp_path, interior_door=3).of(image)
    assert torch.equal(weigher(tmp_path, "freetext", **{"#a06400": 3}).of(image), named)


def test_mistakes_name_the_class_and_the_image(tmp_path: Path) -> None:
    image = example(tmp_path, np.full((16, 16, 3), DOOR, np.uint8))
    with pytest.raises(UserError, match=r"interior dor[\s\S]*did you mean 'interior door'"):
        weigher(tmp_path, interior_dor=5).of(image)
    with pytest.raises(UserError, match=r"freetext[\s\S]*#rrggbb=5"):
        weigher(tmp_path, "freetext", wall=5).of(image)
    with pytest.raises(UserError, match="image a would not be trained on"):
        weigher(tmp_path, interior_door=0).of(image)
