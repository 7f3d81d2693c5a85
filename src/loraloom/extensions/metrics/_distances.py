"""Distances between sets of feature vectors, and how sure they are: pure functions of matrices.

In: (n, d) float64 features, one row an image. Out: numbers. Each function names the reference implementation that it
agrees with; `tests/evaluate/test_distances.py` holds the agreement to 1e-4.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from loraloom.utils.rng import derive_seed

Matrix = NDArray[np.float64]
Interval = tuple[float, float] | None

NUM_RESAMPLES = 1000
NUM_SUBSETS = 100
MAX_SUBSET = 1000
MAX_HALVED = 2000
MIN_GROUPS = 4
"""Prompts, or images of one prompt, below which nothing is said about how sure a figure is."""
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
_BLOCK = 1024


def normalised(rows: Matrix) -> Matrix:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def mean_and_covariance(rows: Matrix) -> tuple[Matrix, Matrix]:
    """(d,) and (d, d) with n - 1 below, as numpy's `cov` and clean-fid have it; n must be at least 2."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def frechet_distance(x: Matrix, y: Matrix) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of two sets (Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of C_x^(1/2) C_y C_x^(1/2), which is symmetric: no
    complex part appears, and singular covariances need no epsilon. Agrees with clean-fid's `frechet_distance` and
    torchmetrics' `_compute_fid`.
    """
    (mean_x, cov_x), (mean_y, cov_y) = mean_and_covariance(x), mean_and_covariance(y)
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = root @ cov_y @ root
    cross = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum()
    return float(((mean_x - mean_y) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def polynomial_mmd(x: Matrix, y: Matrix) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (KID, Binkowski et al. 2018); may be below 0.

    Agrees with torchmetrics' `poly_mmd` and clean-fid's `kernel_distance` on one subset; n may differ.
    """
    width = x.shape[1]
    return _unbiased(x, y, lambda a, b: (a @ b.T / width + 1) ** 3, lambda a: ((a**2).sum(1) / width + 1) ** 3)


def gaussian_mmd(x: Matrix, y: Matrix, *, sigma: float = CMMD_SIGMA, unbiased: bool = False) -> float:
    """Squared MMD with the kernel exp(-|x - y|^2 / (2 sigma^2)).

    Biased: the mean over all pairs, each image with itself included, as CMMD's reference has it (Jayasumana et al. 2024,
    google-research/cmmd `distance.py`). Unbiased: without these pairs.
    """

    def kernel(a: Matrix, b: Matrix) -> Matrix:
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
        return np.exp(-squares.clip(min=0) / (2 * sigma**2))

    if unbiased:
        return _unbiased(x, y, kernel, lambda a: np.ones(len(a)))
    means = [_kernel_sum(a, b, kernel) / (len(a) * len(b)) for a, b in ((x, x), (y, y), (x, y))]
    return means[0] + means[1] - 2 * means[2]


def cmmd(x: Matrix, y: Matrix, *, unbiased: bool = False) -> float:
    """CMMD of normalised CLIP embeddings: `gaussian_mmd` with sigma 10, times 1000."""
    return CMMD_SCALE * gaussian_mmd(normalised(x), normalised(y), unbiased=unbiased)


def kid(x: Matrix, y: Matrix, seed: int) -> float:
    """`polynomial_mmd` of all images up to 1,000 a set; beyond that the mean over 100 random subsets of 1,000, as
    clean-fid has it."""
    if max(len(x), len(y)) <= MAX_SUBSET:
        return polynomial_mmd(x, y)
    rng = np.random.default_rng(derive_seed("kid", seed))
    size = min(len(x), len(y), MAX_SUBSET)
    subsets = [
        polynomial_mmd(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)])
        for _ in range(NUM_SUBSETS)
    ]
    return float(np.mean(subsets))


def mean_cosines(x: Matrix, y: Matrix) -> Matrix:
    """(n,) mean cosine similarity of each row of x with all rows of y."""
    return normalised(x) @ normalised(y).mean(axis=0)


def nearest(x: Matrix, y: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """The largest cosine of each row of x with a row of y, and which row that is."""
    best, place = np.empty(len(x)), np.empty(len(x), np.int64)
    x, y = normalised(x), normalised(y)
    for start in range(0, len(x), _BLOCK):
        cosines = x[start : start + _BLOCK] @ y.T
        place[start : start + _BLOCK] = cosines.argmax(axis=1)
        best[start : start + _BLOCK] = cosines.max(axis=1)
    return best, place


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """How often a positive value is above a negative one, ties half: the area under the ROC curve."""
    differences = positive[:, None] - negative[None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


# ------------------------------------------------------------------------------------------------------- intervals


def bootstrap(values: NDArray[np.float64], groups: Sequence[str], seed: int) -> Interval:
    """95 % percentile interval of the mean, groups resampled whole (Efron & Tibshirani 1993).

    Images of one prompt are not independent, so prompts are resampled. With one group its members are. None below
    `MIN_GROUPS`: an interval of two or three would be narrower than it should be.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        groups = [str(index) for index in range(len(values))]
        names = sorted(groups)
    if len(names) < MIN_GROUPS:
        return None
    place = {name: index for index, name in enumerate(names)}
    of = np.array([place[group] for group in groups])
    sums, counts = np.bincount(of, values), np.bincount(of)
    rng = np.random.default_rng(derive_seed("bootstrap", seed))
    picked = rng.integers(0, len(names), (NUM_RESAMPLES, len(names)))
    means = sums[picked].sum(1) / counts[picked].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def half_sample_sd(
    distance: Callable[[Matrix, Matrix], float],
    x: Matrix,
    y: Matrix,
    groups: tuple[Sequence[str], Sequence[str]],
    seed: int,
) -> float | None:
    """Standard deviation of a distance between two sets, from 100 random halves of each (delete-half jackknife, Shao & Wu
    1989): the spread over halves, taken without replacement, is that of the whole.

    A bootstrap would put equal images into a set, which biases every kernel distance. Groups stay whole. Of more than
    2,000 images the halves are taken of 2,000, which gives a larger deviation than the whole has. None where a set has
    fewer than `MIN_GROUPS`.
    """
    rng = np.random.default_rng(derive_seed("halves", seed))
    kept = [np.sort(rng.permutation(len(rows))[:MAX_HALVED]) for rows in (x, y)]
    x, y = x[kept[0]], y[kept[1]]
    places = [_members([names[int(index)] for index in few]) for names, few in zip(groups, kept, strict=True)]
    if min(len(members) for members in places) < MIN_GROUPS:
        return None
    found: list[float] = []
    for _ in range(NUM_SUBSETS):
        halves: list[NDArray[np.int64]] = []
        for members in places:
            chosen = rng.permutation(len(members))[: (len(members) + 1) // 2]
            halves.append(np.sort(np.concatenate([members[index] for index in chosen])))
        if min(len(half) for half in halves) >= 2:
            found.append(distance(x[halves[0]], y[halves[1]]))
    return float(np.std(found, ddof=1)) if len(found) > 1 else None


def _members(groups: Sequence[str]) -> list[NDArray[np.int64]]:
    names = sorted(set(groups))
    if len(names) < 2:  # all of one prompt: nothing larger than an image can be left out
        return [np.array([index]) for index in range(len(groups))]
    of = np.array(groups)
    return [np.flatnonzero(of == name) for name in names]


def _unbiased(
    x: Matrix, y: Matrix, kernel: Callable[[Matrix, Matrix], Matrix], diagonal: Callable[[Matrix], Matrix]
) -> float:
    """The U-statistic of the squared MMD (Gretton et al. 2012, equation 3); both sets have at least two rows.

    `diagonal` is the kernel of each row with itself.
    """
    value = 0.0
    for rows in (x, y):
        n = len(rows)
        value += (_kernel_sum(rows, rows, kernel) - float(diagonal(rows).sum())) / (n * (n - 1))
    return value - 2 * _kernel_sum(x, y, kernel) / (len(x) * len(y))


def _kernel_sum(x: Matrix, y: Matrix, kernel: Callable[[Matrix, Matrix], Matrix]) -> float:
    """Over all pairs; a block of rows is in memory at a time."""
    return float(sum(kernel(x[start : start + _BLOCK], y).sum() for start in range(0, len(x), _BLOCK)))
