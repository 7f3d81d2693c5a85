"""Where an image shows something: a saliency map without a model, and the box of the subject that stands out.

In: an RGB image. Out: a map of at most 64 pixels a side. It is the product of two classical cues: the spectral residual (Hou
and Zhang, "Saliency Detection: A Spectral Residual Approach", 2007) finds what is unlike its surroundings, and the distance
of each colour from those of the border (the boundary prior of Wei et al., "Geodesic Saliency Using Background Priors", 2012)
finds what is not background. Both are a guess: look at the outlines in the report.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 64
"""Longer side of the map, pixels."""
_BLUR = 2.0
_BORDER = 0.06
_NOISE = 8.0
"""Differences of colours, of 255, that are seen as none: noise and compression."""

Floats = npt.NDArray[np.float64]


def saliency_map(image: Image.Image) -> Floats:
    """(h, w) float64, 0 or more, sum 1; the longer side has 64 pixels. An image of one colour gives an even map."""
    from scipy.ndimage import gaussian_filter  # half a second, and only two of the crops need it

    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), np.float64)
    colour = np.sqrt(gaussian_filter(_from_border(small), _BLUR / 2))
    residual = np.sqrt(gaussian_filter(_spectral_residual(small.mean(axis=2)), _BLUR))
    found = _scaled(colour) * (0.25 + _scaled(residual))
    total = found.sum()
    return found / total if total > 0 else np.full(found.shape, 1 / found.size)


def best_start(weights: Floats, share: float) -> float:
    """Where a window along one axis begins that holds most of the weights; of equal ones the most central.

    Args:
        weights: (n,) sums of a saliency map across the axis.
        share: Length of the window as a share of the axis, above 0, at most 1.

    Returns:
        The window's beginning as a share of the axis, 0 to 1 - `share`.
    """
    spare = 1.0 - share
    if spare <= 0:
        return 0.0
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    places = np.linspace(0.0, spare, 4 * len(weights) + 1)
    axis = np.linspace(0.0, 1.0, len(edges))
    held = np.interp(places + share, axis, edges) - np.interp(places, axis, edges)
    best = np.flatnonzero(held >= held.max() - 1e-3 * max(edges[-1], 1e-12))
    return float(places[best[np.argmin(np.abs(places[best] - spare / 2))]])


def subject_box(saliency: Floats, margin: float = 0.1) -> tuple[float, float, float, float]:
    """left, top, right, bottom of what stands out, as shares of the image's sides; the whole image when nothing does.

    The box holds the middle 96 % of the map's values along each axis that are above its mean, and a margin around them.

    Args:
        saliency: From `saliency_map`.
        margin: Added on each side, as a share of the box.
    """
    above = np.maximum(saliency - saliency.mean(), 0.0)
    if above.sum() <= 1e-9:
        return 0.0, 0.0, 1.0, 1.0
    left, right = _span(above.sum(axis=0))
    top, bottom = _span(above.sum(axis=1))
    across, down = margin * (right - left), margin * (bottom - top)
    return max(0.0, left - across), max(0.0, top - down), min(1.0, right + across), min(1.0, bottom + down)


def _span(values: Floats) -> tuple[float, float]:
    sums = np.cumsum(values) / values.sum()
    first, last = int(np.searchsorted(sums, 0.02)), int(np.searchsorted(sums, 0.98))
    return first / len(values), (last + 1) / len(values)


def _from_border(pixels: Floats) -> Floats:
    """(h, w) squared distance of each colour from the nearest of the mean colours of the four borders."""
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * _BORDER)), max(1, round(width * _BORDER))
    borders = (pixels[:rows], pixels[-rows:], pixels[:, :columns], pixels[:, -columns:])
    away: list[Floats] = []
    for border in borders:
        colours = border.reshape(-1, 3)
        spread = np.maximum(colours.std(axis=0), _NOISE)
        away.append((((pixels - np.median(colours, axis=0)) / spread) ** 2).mean(axis=2))
    return np.maximum(np.minimum.reduce(away) - 1.0, 0.0)


def _spectral_residual(grey: Floats) -> Floats:
    """(h, w) energy of what an image's log spectrum has beyond its local mean."""
    from scipy.ndimage import uniform_filter

    if grey.std() < 1.0:
        return np.zeros(grey.shape)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-3)
    residual = log_amplitude - uniform_filter(log_amplitude, 3, mode="wrap")
    return np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2


def _scaled(values: Floats) -> Floats:
    """Values from 0 to 1; the largest hundredth is cut, so that one pixel does not hide the others."""
    most = float(np.quantile(values, 0.99))
    return np.minimum(values / most, 1.0) if most > 0 else np.zeros(values.shape)
