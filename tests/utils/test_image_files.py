"""Image files are whole or not there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loraloom.utils.image_files import png_bytes, write_png


@pytest.mark.parametrize("level", [1, 6, 9])
def test_every_level_keeps_every_pixel(level: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(level).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "a.png", Image.fromarray(pixels), level=level)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_an_image_that_cannot_be_encoded_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """`plan verify --out` wrote into the file itself: an error half-way left half an image."""
    write_png(tmp_path / "a.png", Image.new("RGB", (4, 4), "red"))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OSError):
        write_png(tmp_path / "a.png", Image.new("CMYK", (4, 4)))
    assert (tmp_path / "a.png").read_bytes() == before == png_bytes(Image.new("RGB", (4, 4), "red"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
