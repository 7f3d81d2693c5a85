"""Stable Diffusion 1.x and 2.x: CLIP text encoder, AutoencoderKL, UNet2DConditionModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read at first use.
"""

from pathlib import Path
from typing import Any

from loraloom.protocols.model import DiffusionModel, ModelFiles


class StableDiffusion:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "stable_diffusion"
    title = "Stable Diffusion 1 or 2"
    adapter_keys = r"(^|[._])((down|up)_blocks[._]\d+|mid_block|(input|output)_blocks[._]\d+)[._]"

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' UNet has one CLIP text encoder and no added time conditions."""
        from loraloom.extensions.families.stable_diffusion.source import is_stable_diffusion

        return is_stable_diffusion(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open a model without reading weights; raises `UserError` if it cannot be opened."""
        from loraloom.extensions.families._ldm.single_file import complete
        from loraloom.extensions.families.stable_diffusion.model import StableDiffusionModel
        from loraloom.extensions.families.stable_diffusion.source import DEFAULT_CONFIGS, check_kind

        check_kind(files)
        return StableDiffusionModel(complete(files, DEFAULT_CONFIGS))

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        kind = type(pipeline).__name__
        if not kind.startswith("StableDiffusion") or kind.startswith(("StableDiffusionXL", "StableDiffusion3")):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.stable_diffusion.model import format_of, parts_of

        return wrap_pipeline(
            pipeline,
            self.name,
            parts_of(pipeline.text_encoder.config.num_hidden_layers),
            format_of(pipeline.unet.config),
        )

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a model with random weights in this layout, for tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():  # the pipeline's imports warn about libraries that are not used here
            from loraloom.extensions.families.stable_diffusion.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = StableDiffusion()
