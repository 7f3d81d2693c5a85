"""HunyuanDiT 1.1, 1.2 and distilled: BERT and mT5 text encoders, AutoencoderKL, HunyuanDiT2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path

from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class HunyuanSettings(Settings):
    """Options of a HunyuanDiT model."""

    clip_windows: int = setting(
        1,
        "windows of 75 tokens that the CLIP encoder reads, each with the model's learned padding rows repeated; mT5 reads "
        "255 tokens in any case; draw with the number that was trained with",
        ge=1,
        le=8,
    )


class HunyuanDit:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "hunyuan_dit"
    settings = HunyuanSettings

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is a HunyuanDiT2DModel."""
        from loraloom.extensions.families.hunyuan_dit.source import is_hunyuan_dit

        return is_hunyuan_dit(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.hunyuan_dit.model import HunyuanDitModel

        return HunyuanDitModel(files)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.hunyuan_dit.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = HunyuanDit()
