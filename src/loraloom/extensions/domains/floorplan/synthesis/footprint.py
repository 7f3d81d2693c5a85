"""The plot: a rectangle with notched corners, and the core of the living room within it.

In: areas in cells and a random generator. Out: cells owned by the hub (everything inside) with a ring of outside.
"""

from math import sqrt

import numpy as np

from .grid import HUB, OUTSIDE, Cells, Mask, Rect, cells_over, integral, window_counts
from .programme import quantile

MAX_SIDE = cells_over(200)
"""Longest side of a plot, cells; the longest side of a real plan is 213 px with its balconies."""

FILL = (0.83, 0.93, 1.0)
ASPECT = (0.60, 0.93, 1.5)
"""Width over height of the plot."""


def draw_footprint(rng: np.random.Generator, area: float) -> Cells:
    """(h, w) cells, `HUB` inside and `OUTSIDE` elsewhere, about `area` of them inside.

    Args:
        area: Area inside, cells.
    """
    fill = min(1.0, quantile(rng, FILL))
    aspect = quantile(rng, ASPECT)
    whole = area / fill
    width = min(MAX_SIDE, max(24, round(sqrt(whole * aspect))))
    height = min(MAX_SIDE, max(24, round(whole / width)))
    cells = np.full((height + 2, width + 2), OUTSIDE, np.uint8)
    cells[1:-1, 1:-1] = HUB
    surplus = width * height - area
    corners = rng.permutation(4)
    count = 0 if surplus < 30 else 1 if surplus < 120 or rng.random() < 0.5 else 2
    for corner in corners[:count]:
        part = surplus / count
        wide = min(0.6 * width, max(6.0, sqrt(part) * rng.uniform(0.6, 1.6)))
        high = min(0.6 * height, max(6.0, part / wide))
        x, y = round(wide), round(high)
        rows = slice(1, 1 + y) if corner < 2 else slice(height + 1 - y, height + 1)
        columns = slice(1, 1 + x) if corner % 2 else slice(width + 1 - x, width + 1)
        cells[rows, columns] = OUTSIDE
    return cells


def draw_core(rng: np.random.Generator, cells: Cells, hub_cells: float) -> Rect | None:
    """The core of the living room, a rectangle that stays with the hub; it lies at a facade when there is space."""
    for _ in range(4):
        area = hub_cells * rng.uniform(0.45, 0.8)
        aspect = rng.uniform(1.0, 2.2)
        short, long = max(8, round(sqrt(area / aspect))), max(8, round(sqrt(area * aspect)))
        height, width = (short, long) if rng.random() < 0.5 else (long, short)
        if height + 2 > cells.shape[0] or width + 2 > cells.shape[1]:
            continue
        fits: Mask = window_counts(integral(cells == HUB), height, width) == height * width
        if not fits.any():
            continue
        # Number of its four sides on a facade: real living rooms have one or two.
        around = window_counts(integral(np.pad(cells, 1) == OUTSIDE), height + 2, width + 2)
        score = rng.random(fits.shape) * 0.9 + np.minimum(around / float(height + width), 1.0)
        score[~fits] = -np.inf
        top, left = divmod(int(score.argmax()), score.shape[1])
        return Rect(top, left, top + height, left + width)
    return None
