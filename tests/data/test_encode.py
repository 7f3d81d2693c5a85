"""Images of a prepared dataset that are not what their rows say are named before anything is made of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loraloom.cli import doctor
from loraloom.data.encode import load_pixels, open_prepared
from loraloom.data.manifest import make_manifest, write_manifest
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save

ROW = Example(
    id="cat", image="images/cat.png", caption="a cat", caption_found=None, split="train", width=16, height=16,
    sha256="0" * 64, source_sha256="1" * 64, source_width=20, source_height=20, crop=(0, 0, 20, 20), scale=0.8,
    num_tokens=None,
)  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    save(drawn(1, 16, 16), tmp_path / ROW.image)
    write_manifest(make_manifest(tmp_path, [ROW], {"domain": "freetext", "settings": {"trigger": ""}}))
    return tmp_path


def other_size(file: Path) -> None:
    save(drawn(1, 24, 16), file)


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[45:60] = bytes(15)
    file.write_bytes(data)


HARMS = [other_size, garbage, cut_short, damaged, lambda file: file.write_bytes(b"")]


@pytest.mark.parametrize("harm", HARMS, ids=["size", "garbage", "cut", "damaged", "empty"])
def test_an_image_that_is_not_its_rows_is_one_error_with_file_and_row(
    harm: Callable[[Path], None], dataset: Path
) -> None:
    """Pixels of another size once reached torch.stack, and an undecodable file Pillow: each ended in a traceback."""
    harm(dataset / ROW.image)
    with pytest.raises(UserError) as error:
        load_pixels(dataset, ROW)
    assert "row 'cat'" in str(error.value)
    assert "cat.png" in str(error.value)
    check = doctor.check_dataset(dataset)
    assert check.verdict == "fail"
    assert "row 'cat'" in check.found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_in_place_of_an_image_is_never_opened(dataset: Path) -> None:
    (dataset / ROW.image).unlink()
    os.mkfifo(dataset / ROW.image)
    with pytest.raises(UserError, match="not a regular file"):
        open_prepared(dataset, ROW)
    assert doctor.check_dataset(dataset).verdict == "fail"


def test_a_good_image_is_read_and_mirrored(dataset: Path) -> None:
    pixels = load_pixels(dataset, ROW)
    assert pixels.shape == (3, 16, 16)
    assert torch.equal(load_pixels(dataset, ROW, mirrored=True), pixels.flip(2))
    assert doctor.check_dataset(dataset).verdict == "ok"
