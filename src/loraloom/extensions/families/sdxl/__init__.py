"""Stable Diffusion XL: two CLIP text encoders, AutoencoderKL, UNet2DConditionModel with conditions on size and crop.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.protocols.model import DiffusionModel, ModelFiles


class StableDiffusionXL:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "sdxl"
    title = "Stable Diffusion XL"
    adapter_keys = (
        r"(^|[._])(text_encoder_2|lora_te2|(down|up)_blocks[._]\d+[._].*transformer_blocks[._][2-9]|mid_block.*"
        r"transformer_blocks[._][2-9]|(input|middle|output)_blocks?[._].*transformer_blocks[._][2-9])[._]"
    )

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

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        if not type(pipeline).__name__.startswith("StableDiffusionXL"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.sdxl.model import format_of, parts_of

        parts = parts_of(pipeline.text_encoder.config.num_hidden_layers)
        return wrap_pipeline(pipeline, self.name, parts, format_of(pipeline.unet.config))

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a model with random weights in this layout, for tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():  # the pipeline's imports warn about libraries that are not used here
            from loraloom.extensions.families.sdxl.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = StableDiffusionXL()
