"""The contact sheet: right size, whatever the texts and images."""

import time

import numpy as np
import pytest
from PIL import Image

from loraloom.generate.sheet import contact_sheet


def plain(colour: str, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize("cell_px", [96, 192])
def test_a_sheet_has_room_for_every_cell(rows: int, columns: int, cell_px: int) -> None:
    sheet = contact_sheet(
        [[plain("red")] * columns for _ in range(rows)], ["a prompt"] * rows, ["seed"] * columns, cell_px=cell_px
    )
    assert sheet.mode == "RGB"
    assert sheet.size == (max(8 + columns * (cell_px + 8), 240), 30 + rows * (30 + cell_px + 8))
    reds = (np.asarray(sheet) == (255, 0, 0)).all(axis=-1).sum()
    assert reds == rows * columns * cell_px**2


@pytest.mark.parametrize(
    "text", ["방이 두 개 있는 아파트 평면도, 거실은 왼쪽에 있다. " * 30, "x" * 5000, "", "\n\n", "🏠" * 300, "a\tb\nc"]
)
def test_any_text_fits_or_is_cut(text: str) -> None:
    sheet = contact_sheet([[plain("red")]], [text], [text])
    assert sheet.size == (240, 260)
    assert (np.asarray(sheet)[30 + 30, :8] == (250, 250, 250)).all(), "the margin stays free"


def test_a_very_long_prompt_costs_no_time() -> None:
    """Cut a letter at a time, 5,000 letters took 105 s, in the middle of a training."""
    began = time.perf_counter()
    contact_sheet([[plain("red")]], ["x" * 5000], [])
    assert time.perf_counter() - began < 5


def test_missing_images_and_short_rows_are_blank() -> None:
    sheet = np.asarray(contact_sheet([[None, plain("red")], [plain("red")]], ["a", "b"], ["1", "2"], cell_px=32))
    assert (sheet[60 + 16, 8 + 16] == (225, 225, 228)).all()
    assert (sheet[60 + 70 + 16, 8 + 40 + 16] == (225, 225, 228)).all()


def test_wide_images_keep_their_shape_and_modes_are_read() -> None:
    sheet = contact_sheet(
        [[plain("red", (100, 50)), plain("red", (3, 300)), plain("red", mode="P")]], ["a"], [], cell_px=100
    )
    row = (np.asarray(sheet) == (255, 0, 0)).all(axis=-1)
    assert row[:, 8:108].sum() == 100 * 50
    assert row[:, 116:216].sum() == 100 * 1


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    checks = Image.fromarray((np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8))
    cell = np.asarray(contact_sheet([[checks]], ["a"], [], cell_px=64))[60:124, 8:72]
    assert set(np.unique(cell)) == {0, 255}


def test_an_empty_sheet_is_a_image() -> None:
    assert contact_sheet([], [], []).size == (240, 30)
