"""HunyuanDiT 1.1, 1.2 and distilled: BERT and mT5 text encoders, AutoencoderKL, HunyuanDiT2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class HunyuanSettings(Settings):
    """Options of a HunyuanDiT model."""

    clip_windows: int = setting(
        1,
        "Windows of 75 tokens that the CLIP encoder reads, each with the model's learned padding rows repeated; mT5 reads "
        "255 tokens in any case; generation uses the number of training.",
        ge=1,
        le=8,
    )
    variance_loss: bool = setting(
        False,
        "Add the variational bound of the variance half, as Tencent's trainer does; no sampler here reads that half.",
    )


class HunyuanDit:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "hunyuan_dit"
    title = "HunyuanDiT"
    settings = HunyuanSettings
    adapter_keys = r"^(transformer\.|base_model\.model\.|diffusion_model\.|lora_unet_)?blocks[._]\d+[._]attn[12][._]"

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is a HunyuanDiT2DModel."""
        from loraloom.extensions.families.hunyuan_dit.source import is_hunyuan_dit

        return is_hunyuan_dit(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.hunyuan_dit.model import HunyuanDitModel

        return HunyuanDitModel(files)

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        if not type(pipeline).__name__.startswith("HunyuanDiT"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.hunyuan_dit.lora_format import HunyuanDitFormat
        from loraloom.extensions.families.hunyuan_dit.model import PARTS

        return wrap_pipeline(pipeline, self.name, PARTS, HunyuanDitFormat())

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.hunyuan_dit.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = HunyuanDit()
