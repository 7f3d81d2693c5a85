"""Numbers of images and steps of `mini`, for two CPU cores and for a GPU.

In: a device. Out: a `Recipe`; its results are in `docs/mini.md`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from recipes.mini.fitting import Way


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of images and steps, and settings of every stage.

    Attributes:
        images: Number of images for the denoiser.
        orientations: Number of orientations of each image that the denoiser is trained on, 1 .. 8; scenes have at most two.
        autoencoder_images, autoencoder_steps, autoencoder_batch: Numbers of images, steps and crops in a step for the
            autoencoder.
        louder_steps, louder_batch: Steps and batch size of its second fit, which gives thin structures more contrast.
        decoder_steps: Steps of the last fit, of its decoder only, with noise.
        reading_texts, reading_steps: Numbers of texts (plans and scenes) and steps for the text encoder.
        first_steps: Steps of the denoiser before grounding.
        grounding_steps, grounding_batch: Steps and batch size of the grounding of its deep layers.
        steps: Steps of the denoiser after grounding; the learning rate decays to a hundredth.
        point_images: Number of images between two points of the learning curve (`curve`).
        contrast_images, contrast_steps: Numbers of images and steps for the vision tower.
        batch_size: Number of images in a step of the denoiser.
        learning_rate: Peak learning rate of the denoiser.
        precision: `no` for float32, or `bf16` on a GPU.
        record, compiled: Recording and compilation of the denoiser's pass, see `Way`.
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
        """Steps between two points of the learning curve, at least 1."""
        return max(1, round(self.point_images / self.batch_size))

    @property
    def way(self) -> Way:
        """Batch size, precision and compilation of the denoiser's fit."""
        return Way(self.batch_size, self.precision, self.record, self.compiled)


def recipe_for(device: str, **changes: Any) -> Recipe:
    """The recipe for a CPU (some hours) or a GPU (some minutes), with changes by name."""
    if device == "cpu":
        return Recipe(**changes)
    large = Recipe(
        images=120_000, orientations=5, autoencoder_images=10_000, autoencoder_steps=4_000, autoencoder_batch=128,
        louder_steps=1_000, louder_batch=128, decoder_steps=1_000, first_steps=120,
        grounding_steps=200, grounding_batch=128, steps=8_000, batch_size=512, point_images=500_000,
        precision="bf16", record=True, compiled=True,
    )  # fmt: skip
    return replace(large, **changes)
