"""A grid holds every combination once, with the right label above and beside it, and its pages can be sent as they are."""

import re
from pathlib import Path

import pytest
from PIL import Image

from loraloom.generate.grid import Grid, make_grid, write_grid_page, write_sheet
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.errors import UserError

TEMPLATE = ImageRequest(prompt="a cat", seed=3)


def test_every_combination_is_drawn_once_and_stands_below_its_labels() -> None:
    grid = make_grid({"prompt": ["a", "b"], "lora": ["", "x:1"], "seed": [1, 2, 3], "guidance": [7.5]}, down="prompt")
    assert (grid.across, grid.down) == ("lora", "prompt")
    pages = grid.pages(TEMPLATE)
    assert [page.title for page in pages] == ["seed 1", "seed 2", "seed 3"]
    assert pages[0].columns == ("base", "x:1")
    seen = {(one.prompt, one.loras, one.seed) for page in pages for row in page.requests for one in row}
    assert seen == {(p, lora, s) for p in "ab" for lora in ("", "x:1") for s in (1, 2, 3)}
    assert pages[1].requests[1][1].prompt == "b"
    assert pages[1].requests[1][1].loras == "x:1"


def test_axes_are_chosen_where_none_are_named() -> None:
    assert _axes(make_grid({"prompt": ["a"], "seed": [1, 2]})) == ("seed", "prompt")
    assert _axes(make_grid({"prompt": ["a", "b"], "lora": ["", "x"]})) == ("lora", "prompt")
    assert _axes(make_grid({"prompt": ["a", "b"], "seed": [1, 2]}, across="prompt")) == ("prompt", "seed")
    assert _axes(make_grid({"steps": [1, 2], "guidance": [1.0, 2.0], "prompt": ["a"]})) == ("steps", "guidance")


def test_equal_values_of_an_axis_count_once() -> None:
    assert make_grid({"prompt": ["a"], "seed": [1, 1, 2]}).values["seed"] == [1, 2]


@pytest.mark.parametrize(
    ("values", "axes", "word"),
    [
        ({"prompt": ["a"], "seed": [1]}, {"across": "weight"}, "unknown axis"),
        ({"prompt": ["a"], "seed": [1]}, {"across": "seed", "down": "seed"}, "same axis"),
        ({"prompt": ["a"], "seed": [1]}, {"across": "lora"}, "has no values"),
        ({"prompt": ["a"]}, {}, "two axes"),
        ({"prompt": ["a"], "seed": range(10_001)}, {}, "too many images"),
    ],
)
def test_what_is_no_grid_is_named(values: dict[str, list[object]], axes: dict[str, str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        make_grid(values, **axes)


def test_the_page_holds_images_recipes_and_no_link(tmp_path: Path) -> None:
    page = make_grid({"prompt": ["<b>"], "seed": [1, 2]}).pages(TEMPLATE)[0]
    images = [[Image.new("RGB", (8, 8), "red"), None]]
    write_grid_page(tmp_path / "grid.html", "A grid", [(page, images)], {0: {"prompt": "<b>", "seed": 1}})
    text = (tmp_path / "grid.html").read_text(encoding="utf-8")
    assert text.count("<img") == 1
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    with Image.open(write_sheet(tmp_path / "grid.png", page, images, cell_px=64)) as sheet:
        assert sheet.width >= 2 * 64


def _axes(grid: Grid) -> tuple[str, str]:
    return grid.across, grid.down
