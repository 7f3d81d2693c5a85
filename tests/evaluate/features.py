"""Feature vectors by formula: the same on every machine, so that values of reference implementations can be stored."""

import numpy as np
from numpy.typing import NDArray


def features(count: int, width: int, phase: float) -> NDArray[np.float64]:
    """(count, width) of full rank; another phase is another set."""
    row, column = np.arange(count)[:, None] + 1.0, np.arange(width)[None] + 2.0
    return np.sin(0.37 * row * column + phase) + 0.5 * np.cos(row * row * 0.11 + column) + phase
