"""Grids of images over two of: prompt, LoRA setting, seed, steps, guidance, sampler.

In: the values of each axis and what all images share. Out: the requests of every cell, in pages where more than two axes
have several values; and from the finished images a sheet and an HTML page with each image's recipe. Neighbouring cells
differ in one thing only: all images of a grid start from the noise of their seed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom.generate.sheet import contact_sheet
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.atomic_files import write_text
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.html_pages import data_uri, render_page
from loraloom.utils.image_files import png_bytes, write_png

AXES: Mapping[str, str] = {
    "prompt": "prompt",
    "lora": "loras",
    "seed": "seed",
    "steps": "num_steps",
    "guidance": "guidance_scale",
    "sampler": "sampler",
}
"""The name of each axis and the field of `ImageRequest` that it sets. Also their order where the user gives none."""

MAX_CELLS = 10_000
_TEMPLATE = Path(__file__).with_name("grid.html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which values meet.

    Attributes:
        values: Values of each axis in `AXES`; an axis that is missing keeps the template's.
        across, down: Axes of the columns and of the rows; every other axis with several values makes pages.
    """

    values: Mapping[str, Sequence[Any]]
    across: str
    down: str

    def pages(self, template: ImageRequest) -> list["Page"]:
        """The requests, page by page."""
        others = [axis for axis in AXES if axis in self.values and axis not in {self.across, self.down}]
        made: list[Page] = []
        for combination in product(*(self.values[axis] for axis in others)):
            fixed = dict(zip(others, combination, strict=True))
            rows = tuple(
                tuple(
                    _request(template, {**fixed, self.down: down, self.across: across}) for across in self._of("across")
                )
                for down in self._of("down")
            )
            several = [axis for axis in others if len(self.values[axis]) > 1]
            made.append(
                Page(
                    title=", ".join(label(axis, fixed[axis]) for axis in several),
                    columns=tuple(label(self.across, value) for value in self._of("across")),
                    rows=tuple(label(self.down, value) for value in self._of("down")),
                    requests=rows,
                )
            )
        return made

    def _of(self, direction: str) -> Sequence[Any]:
        return self.values[self.across if direction == "across" else self.down]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One table of a grid.

    Attributes:
        title: The values of the axes that are neither rows nor columns; empty where there are none.
        columns, rows: Their labels.
        requests: (rows, columns).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    requests: tuple[tuple[ImageRequest, ...], ...]


def make_grid(values: Mapping[str, Sequence[Any]], across: str | None = None, down: str | None = None) -> Grid:
    """A grid of checked axes.

    Args:
        values: Values of each axis. Equal values of one axis count once.
        across, down: Axes of columns and rows; None chooses, of those with several values, LoRA settings across and the
            first other one down.

    Raises:
        UserError: An unknown axis, the same axis twice, no values, or more cells than `MAX_CELLS`.
    """
    distinct = {axis: list(dict.fromkeys(found)) for axis, found in values.items() if found}
    for axis in (across, down):
        if axis is not None and axis not in AXES:
            raise UserError("unknown axis of a grid", got=axis, fix=did_you_mean(axis, AXES))
        if axis is not None and axis not in distinct:
            raise UserError(f"the axis {axis} has no values", fix=f"name some, or leave out the axis {axis}")
    if across is not None and across == down:
        raise UserError("rows and columns are the same axis", got=across, fix="name two different ones")
    several = [axis for axis in AXES if len(distinct.get(axis, ())) > 1]
    free = [
        axis for axis in [*(["lora"] if "lora" in several else []), *several, *distinct] if axis not in {across, down}
    ]
    if across is None:
        across = free[0]
        free = [axis for axis in free if axis != across]
    if down is None:
        down = free[0] if free else next(axis for axis in AXES if axis != across)
    if down not in distinct or across not in distinct:
        raise UserError("a grid needs two axes", got=", ".join(distinct), expected="such as prompts and LoRA settings")
    cells = 1
    for found in distinct.values():
        cells *= len(found)
    if cells > MAX_CELLS:
        raise UserError("too many images in this grid", got=f"{cells:,}", expected=f"at most {MAX_CELLS:,}")
    return Grid(values=distinct, across=across, down=down)


def label(axis: str, value: Any) -> str:
    """The heading of a value."""
    if axis == "lora":
        return str(value) or "base"
    if axis in {"prompt", "sampler"}:
        return str(value)
    return f"{axis} {value:g}" if isinstance(value, float) else f"{axis} {value}"


def _request(template: ImageRequest, values: Mapping[str, Any]) -> ImageRequest:
    return replace(template, **{AXES[axis]: value for axis, value in values.items()})


def write_sheet(path: Path, page: Page, images: Sequence[Sequence[Image.Image | None]], cell_px: int = 256) -> Path:
    """One page as a PNG with labels."""
    write_png(path, contact_sheet(images, page.rows, page.columns, cell_px=cell_px))
    return path


def write_grid_page(
    path: Path,
    title: str,
    pages: Sequence[tuple[Page, Sequence[Sequence[Image.Image | None]]]],
    recipes: Mapping[int, Any],
) -> None:
    """The grid as an HTML file without scripts and links, with each image's recipe.

    Args:
        path: The file; replaced as a whole.
        title: Its heading.
        pages: Each with its images, (rows, columns); None where there is none.
        recipes: The row of the recipe of each image, by its number in the order of pages, rows and columns.
    """
    numbers = iter(range(MAX_CELLS))
    shown = [
        {"title": page.title, "columns": page.columns, "rows": list(_shown_rows(page, images, numbers, recipes))}
        for page, images in pages
    ]
    write_text(path, render_page(_TEMPLATE, {"title": title, "pages": shown}))


def _shown_rows(
    page: Page, images: Sequence[Sequence[Image.Image | None]], numbers: Iterator[int], recipes: Mapping[int, Any]
) -> Iterator[dict[str, object]]:
    for name, row in zip(page.rows, images, strict=True):
        cells: list[dict[str, object] | None] = []
        for image in row:
            recipe = recipes.get(next(numbers), {})
            if image is None:
                cells.append(None)
                continue
            text = json.dumps(recipe, ensure_ascii=False, indent=1)
            cells.append({"source": data_uri(png_bytes(image, level=9), "image/png"), "recipe": text})
        yield {"name": name, "cells": cells}
