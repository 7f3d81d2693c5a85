"""Stable Diffusion 1.x and 2.x: CLIP text encoder, AutoencoderKL, UNet2DConditionModel.

In: a `ModelSource`. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path

from loraloom.protocols.model import DiffusionModel, ModelSource


class StableDiffusion:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "stable_diffusion"

    def recognises(self, source: ModelSource) -> bool:
        """Whether the source's UNet has one CLIP text encoder and no added time conditions."""
        from loraloom.extensions.families.stable_diffusion.source import locate

        return locate(source).is_stable_diffusion()

    def open(self, source: ModelSource) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.stable_diffusion.model import StableDiffusionModel
        from loraloom.extensions.families.stable_diffusion.source import locate

        return StableDiffusionModel(source, locate(source))

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():  # the pipeline's imports speak of libraries that are not needed here
            from loraloom.extensions.families.stable_diffusion.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = StableDiffusion()
