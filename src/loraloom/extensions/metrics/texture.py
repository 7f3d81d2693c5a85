"""Texture similarity: how like the references' colours, lines and grain the images are, by statistics of their pixels.

It takes no extractor. Each image, its shorter side resized to 128 pixels, becomes 30 numbers: brightness, contrast and
saturation; and in each of four bands of a Laplacian pyramid (Burt & Adelson 1983) the energy of brightness and of two
opponent colours, and how sparse and how skewed the brightness is, as in texture synthesis by joint statistics (Portilla &
Simoncelli 2000). The similarity of two images is exp(-d^2 / (2 x 0.35^2)) with d^2 the mean squared difference of these
numbers, 0 to 1; an image's value is its mean over all references. Images of a model differ from real ones in the finest
grain, whatever the style: read the difference from the anchor with the adapter off.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraloom.extensions.metrics._figures import few, mean_figure
from loraloom.extensions.metrics._rows import Matrix, Rows
from loraloom.protocols.contracts import MetricContract
from loraloom.protocols.evaluation import Available, EvaluationMetric, Figure, MetricSetup, Role, Sample, TowerKind

SIDE_PX = 128
NUM_BANDS = 4
WIDTH = 0.35
"""Width of the kernel. Energies are natural logarithms: 0.35 is a factor of 1.4. At this width real images of each rendered
style are most like their own style; at 0.5 cartoon is as like anime as like cartoon (experiment 0032)."""
_OPPONENT = ((0.299, 0.5, 0.5), (0.587, -0.5, 0.0), (0.114, 0.0, -0.5))
"""Red, green and blue to brightness, red - green and red - blue."""
_BLOCK = 256


def texture(image: Any) -> NDArray[np.float32]:
    """(30,) numbers of a PIL image of any size and mode; see the module."""
    from PIL import Image
    from scipy import ndimage

    scale = SIDE_PX / min(image.size)
    size = (max(SIDE_PX, round(image.width * scale)), max(SIDE_PX, round(image.height * scale)))
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), np.float32) / 255
    planes = pixels @ np.array(_OPPONENT, np.float32)
    bright, saturation = planes[..., 0], pixels.max(axis=2) - pixels.min(axis=2)
    low, high = np.percentile(bright, (5, 95))
    numbers = [4 * bright.mean(), 8 * bright.std(), 4 * low, 4 * high, 4 * saturation.mean(), 8 * saturation.std()]
    for _ in range(NUM_BANDS):
        soft = np.stack([ndimage.gaussian_filter(planes[..., plane], 1.0) for plane in range(3)], axis=2)
        band = planes - soft
        energy = np.sqrt((band**2).mean(axis=(0, 1))) + 2e-3
        lines = np.abs(band[..., 0])
        numbers += [
            *np.log(energy),
            np.log(lines.mean() / energy[0] + 0.05),
            np.log((np.median(lines) + 5e-4) / energy[0]),
            np.cbrt((band[..., 0] ** 3).mean()) / energy[0],
        ]
        planes = soft[::2, ::2]
    return np.array(numbers, np.float32)


def kernel_means(rows: Matrix, references: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """(n,) mean similarity of each row to all references, and the reference that it is most like."""
    means, places = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        squares = (block**2).sum(1)[:, None] + (references**2).sum(1)[None, :] - 2 * block @ references.T
        similar = np.exp(-squares.clip(min=0) / rows.shape[1] / (2 * WIDTH**2))
        means[start : start + _BLOCK] = similar.mean(axis=1)
        places[start : start + _BLOCK] = squares.argmin(axis=1)
    return means, places


class TextureState(Rows):
    """The 30 numbers of generated and reference images."""

    def __init__(self, setup: MetricSetup) -> None:
        super().__init__()
        self._seed = setup.seed
        self._known: dict[str, NDArray[np.float32]] = setup.shared.setdefault("textures", {})

    def update(self, samples: Sequence[Sample]) -> None:
        """Measure generated and reference images; each image once in an evaluation."""
        for sample in samples:
            if sample.role not in ("generated", "reference"):
                continue
            if sample.id not in self._known:
                assert sample.open is not None, sample.id
                self._known[sample.id] = texture(sample.open())
            self.add(sample.role, sample.id, self._known[sample.id], sample.group)

    def compute(self) -> list[Figure]:
        """For each image its mean similarity to all references, and the mean over images."""
        ids, references = self.ids("generated"), self.ids("reference")
        if not ids or not references:
            return []
        values, places = kernel_means(self.matrix("generated"), self.matrix("reference"))
        return [
            mean_figure(
                "texture",
                "texture of the references",
                values,
                ids,
                self.group_list("generated"),
                self._seed,
                better=1,
                references=len(references),
                nearest={id_: references[place] for id_, place in zip(ids, places, strict=True)},
            )
        ]


class Texture:
    """The metric `texture`."""

    name = "texture"
    roles: tuple[Role, ...] = ("generated", "reference")
    tower: TowerKind = ""

    def missing(self, there: Available) -> str | None:
        """References."""
        return few(there, "reference", 1) or few(there, "generated", 1)

    def start(self, setup: MetricSetup) -> TextureState:
        """An empty state."""
        return TextureState(setup)


METRIC: EvaluationMetric = Texture()
CONTRACT = MetricContract(figures=("texture",))
