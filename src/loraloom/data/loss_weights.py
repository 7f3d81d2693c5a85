"""How much each latent of a colour-coded image counts: thin things that matter would else be lost in the mean.

In: weights by class, and a prepared image whose colours stand for classes (plans, segmentation maps). Out: a weight for
each of its latents. Classes are a domain's names for colours, or colours themselves (`#a06400`). Where mask files black out a
part of an image in other trainers, a weight of 0 does so by colour here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from loraloom.data.encode import open_prepared
from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain
from loraloom.utils.errors import UserError, did_you_mean

NEAR = 24.0
"""A pixel this near to a class's colour (Euclidean, 0 .. 442) is of the class: images may have been compressed."""


@dataclass(frozen=True, slots=True)
class LatentWeights:
    """Weights of prepared images' latents, each image's computed when it is first asked for.

    Attributes:
        weights: Class or colour (`#rrggbb`) -> loss weight; all others have weight 1.
        domain: Knows the classes' colours.
        folder: The dataset folder.
        latent_scale: Pixels along a side for one latent.
        held: What was computed: 1 byte a pixel of the latents beside their own 32 and more.
    """

    weights: Mapping[str, float]
    domain: Domain
    folder: Path
    latent_scale: int
    held: dict[tuple[str, bool], Tensor] = field(default_factory=dict[tuple[str, bool], Tensor])

    def of(self, example: Example, mirrored: bool = False) -> Tensor:
        """(h, w) float32 at the size of the latents, mean 1.

        A latent counts as much as the weightiest of its pixels. The mean is 1, so an image with many doors does not count
        more than one with few.

        Raises:
            UserError: The domain has no such class for this caption, or the whole image has weight 0.
        """
        key = example.id, mirrored
        if key not in self.held:
            self.held[key] = self._compute(example, mirrored)
        return self.held[key]

    def share(self, examples: Sequence[Example], name: str) -> float:
        """How much of some images a class is, 0 .. 1, by latents that hold some of it."""
        cells = [self._cells(self._holds(self._pixels(example, False), example, name)) for example in examples]
        return float(np.mean([cell.mean() for cell in cells]))

    def _compute(self, example: Example, mirrored: bool) -> Tensor:
        pixels = self._pixels(example, mirrored)
        weights = np.ones(pixels.shape[:2], np.float32)
        for name, weight in self.weights.items():
            weights[self._holds(pixels, example, name)] = weight
        cells = self._cells(weights)
        mean = cells.mean(dtype=np.float64)
        if mean == 0:
            raise UserError(
                f"image {example.id} would not be trained on: all its classes have loss weight 0",
                got=f"{dict(self.weights)}",
                fix="give a class that it shows a weight above 0 in objective.class_weights, or leave the image out",
            )
        return torch.from_numpy(cells / np.float32(mean))

    def _pixels(self, example: Example, mirrored: bool) -> NDArray[np.int32]:
        pixels = np.asarray(open_prepared(self.folder, example), np.int32)
        return pixels[:, ::-1] if mirrored else pixels

    def _holds(self, pixels: NDArray[np.int32], example: Example, name: str) -> NDArray[np.bool_]:
        away = pixels - np.array(self._colour(example, name), np.int32)
        return (away * away).sum(axis=2) <= NEAR * NEAR

    def _colour(self, example: Example, name: str) -> tuple[int, int, int]:
        if name.startswith("#"):
            red, green, blue = ImageColor.getrgb(name)[:3]
            return red, green, blue
        known = self.domain.colours(example.caption)
        if name in known:
            return known[name]
        hint = did_you_mean(name, known) if known else "this domain names no colours: write one as '#rrggbb=5'"
        raise UserError(
            f"objective.class_weights names a class that images of the domain {self.domain.name!r} do not have",
            got=name,
            fix=hint,
        )

    def _cells(self, values: NDArray) -> NDArray:
        """The largest value of each latent's pixels."""
        height, width = (size // self.latent_scale for size in values.shape)
        parts = values.reshape(height, self.latent_scale, width, self.latent_scale)
        return parts.max(axis=(1, 3))
