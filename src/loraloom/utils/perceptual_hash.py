"""Perceptual hashes of an image in its eight orientations: near-duplicates have near hashes, mirrored copies included.

In: an image. Out: eight 64-bit hashes (DCT hash: Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010), the image's own first. Two images are near when the least Hamming distance between the own hash of one
and the eight of the other is small.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32
LOW = 8
NUM_VARIANTS = 8
_NOISE = 2.0
"""Coefficients of grey values 0..255 that are smaller than this say nothing; rounding alone gives 0.3."""

_ALTERNATING = np.where(np.arange(LOW) % 2, -1.0, 1.0)


def perceptual_hashes(image: Image.Image) -> tuple[int, ...]:
    """Hashes of the image's eight flips and quarter turns, 64 bits each, the image's own first.

    A mirrored image has the same DCT but for the sign of every odd frequency, and a turned one has it transposed, so
    the eight cost one transform.
    """
    from scipy.fft import dctn  # half a second, and whoever loads a metric does not need it

    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    # Orthonormal but for the first frequencies, whose factor no bit should depend on.
    low = np.asarray(dctn(np.asarray(small, dtype=np.float64)))[:LOW, :LOW] / (2 * SIDE)
    variants = [
        turned * flip_rows * flip_columns
        for turned in (low, low.T)
        for flip_rows in (1.0, _ALTERNATING[:, None])
        for flip_columns in (1.0, _ALTERNATING[None, :])
    ]
    return tuple(_bits(variant) for variant in variants)


def _bits(low: npt.NDArray[np.float64]) -> int:
    values = low.ravel().copy()
    values[0] = 0.0  # brightness is no part of what an image shows
    # What a symmetric image has at odd frequencies is rounding noise: its signs would be random.
    values[np.abs(values) < _NOISE] = 0.0
    return int.from_bytes(np.packbits(values > np.median(values[1:])).tobytes(), "big")
