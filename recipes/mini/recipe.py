"""How `mini` is made: counts of images and steps, for two CPU cores and for a GPU.

In: a device. Out: a `Recipe`; `docs/mini.md` says what came of it.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from recipes.mini.fitting import Way


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `mini` is made.

    Attributes:
        images: Drawn for the denoiser.
        layings: In how many of eight layings the denoiser learns each; scenes have two at most.
        autoencoder_pictures, autoencoder_steps, autoencoder_batch: For the autoencoder.
        louder_steps, louder_batch: Of the autoencoder, afterwards, saying thin things louder.
        decoder_steps: Of its decoder alone, at the end, with noise.
        reading_texts, reading_steps: Of the text encoder; plans and scenes.
        first_steps: Of the denoiser before it is grounded.
        grounding_steps, grounding_batch: Of its deep layers.
        steps: Of the denoiser after that, the learning rate falling to almost nothing.
        point_pictures: The denoiser is asked for held-out plans every so many images (`curve`).
        contrast_pictures, contrast_steps: Of the vision tower.
        batch_size, learning_rate: Of the denoiser.
        precision: `no`, or `bf16` on a GPU.
        record, compiled: Of the denoiser's pass, see `Way`.
    """

    images: int = 10_000
    orientations: int = 1
    autoencoder_images: int = 3_400
    autoencoder_steps: int = 5_400
    autoencoder_batch: int = 8
    louder_steps: int = 1_100
    louder_batch: int = 12
    decoder_steps: int = 2_400
    reading_texts: int = 20_000
    reading_steps: int = 2_000
    first_steps: int = 600
    grounding_steps: int = 500
    grounding_batch: int = 32
    steps: int = 4_000
    point_images: int = 50_000
    contrast_images: int = 8_000
    contrast_steps: int = 2_000
    batch_size: int = 32
    learning_rate: float = 4e-3
    precision: Literal["no", "bf16"] = "no"
    record: bool = False
    compiled: bool = False

    @property
    def steps_between_points(self) -> int:
        """Of the learning curve."""
        return max(1, round(self.point_images / self.batch_size))

    @property
    def way(self) -> Way:
        """Of the denoiser."""
        return Way(self.batch_size, self.precision, self.record, self.compiled)


def recipe_for(device: str, **changes: Any) -> Recipe:
    """What a device can do in some hours (a CPU) or minutes (a GPU), with changes by name."""
    if device == "cpu":
        return Recipe(**changes)
    large = Recipe(
        images=120_000, orientations=5, autoencoder_images=10_000, autoencoder_steps=4_000, autoencoder_batch=128,
        louder_steps=1_000, louder_batch=128, decoder_steps=1_000, first_steps=120,
        grounding_steps=200, grounding_batch=128, steps=8_000, batch_size=512, point_images=500_000,
        precision="bf16", record=True, compiled=True,
    )  # fmt: skip
    return replace(large, **changes)
