"""Stable Diffusion XL: two CLIP text encoders, AutoencoderKL, UNet2DConditionModel with conditions on size and crop.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path

from loraloom.protocols.model import DiffusionModel, ModelFiles


class StableDiffusionXL:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "sdxl"

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' UNet has conditions on size, or two text encoders. What of these cannot be used `open` refuses."""
        from loraloom.extensions.families.sdxl.source import is_sdxl

        return is_sdxl(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open a model without reading weights; raises `UserError` if it cannot be opened."""
        from loraloom.extensions.families._ldm.single_file import complete
        from loraloom.extensions.families.sdxl.model import SdxlModel
        from loraloom.extensions.families.sdxl.source import DEFAULT_CONFIGS, check_kind

        check_kind(files)
        return SdxlModel(complete(files, DEFAULT_CONFIGS))

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a model with random weights in this layout, for tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():  # the pipeline's imports warn about libraries that are not used here
            from loraloom.extensions.families.sdxl.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = StableDiffusionXL()
