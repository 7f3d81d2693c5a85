"""The Python face of blending draws what `generate` draws, and leaves the base as it was."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import loraloom
from loraloom.utils.errors import UserError

from .conftest import QUICK, MakeAdapter


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("multi")
    return {name: make_adapter(folder / name, seed=seed) for seed, name in enumerate(("anime", "watercolor"), 1)}


def test_two_loras_are_loaded_blended_compared_and_unloaded(runs: dict[str, Path], tmp_path: Path) -> None:
    generator = loraloom.MultiLoRAGenerator(**QUICK)
    assert generator.load_lora(runs["anime"]) == "anime"
    assert generator.load_lora(runs["watercolor"], "wc") == "wc"
    compared = generator.generate_comparison("a garden", [[("anime", 0.6), ("wc", 0.4)], "wc"], num_images=2, seed=7)
    assert compared.labels == ("base", "anime:0.6 + wc:0.4", "wc:1")
    assert compared.seeds == (7, 8)
    base, blended, _ = compared.images
    assert base[0].tobytes() != blended[0].tobytes()
    (alone,) = generator.generate("a garden", [("anime", 0.6), ("wc", 0.4)], seed=8)
    difference = np.abs(np.asarray(alone, dtype=int) - np.asarray(blended[1], dtype=int))
    assert difference.max() <= 1  # drawn in a batch of two and alone
    path = generator.create_comparison_grid(compared, tmp_path / "grid.png")
    with Image.open(path) as grid:
        assert grid.width > 2 * 256
    generator.unload_lora("anime")
    generator.unload_lora("wc")
    assert generator.names == ()
    (again,) = generator.generate("a garden", seed=7)
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(base[0], dtype=int)).max() <= 1


def test_mistakes_are_named(runs: dict[str, Path], tiny_model: Path) -> None:
    with pytest.raises(UserError, match="no model is open"):
        loraloom.MultiLoRAGenerator().generate("a")
    with pytest.raises(UserError, match="stepz"):
        loraloom.MultiLoRAGenerator(stepz=3)
    generator = loraloom.MultiLoRAGenerator(str(tiny_model), **QUICK)
    generator.load_lora(runs["anime"])
    with pytest.raises(UserError, match="two adapters of one name"):
        generator.load_lora(runs["watercolor"], "anime")
    with pytest.raises(UserError, match="not loaded"):
        generator.generate("a", [("anima", 1.0)])
    with pytest.raises(UserError, match="two LoRAs of one name"):
        generator.generate("a", [("anime", 1.0), ("anime", 0.5)])
    with pytest.raises(UserError, match="no adapter of this name"):
        generator.unload_lora("wc")
    with pytest.raises(UserError, match="not the name"):
        generator.load_lora(runs["watercolor"], "a b")
