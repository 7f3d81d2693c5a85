"""Z-Image and Z-Image-Turbo: a Qwen3 text encoder, AutoencoderKL, ZImageTransformer2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.extensions.families._flow.options import part_file
from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class ZImageSettings(Settings):
    """Options of a Z-Image model."""

    text_tokens: int = setting(
        512,
        "Number of tokens that the text encoder reads, the eight of its chat template among them; padding is not read by the "
        "denoiser.",
        ge=16,
        le=1024,
    )
    vae_file: str = setting("", part_file("the VAE"))
    text_encoder_file: str = setting("", part_file("Qwen3"))
    train_distilled: bool = setting(
        False,
        "Train on Z-Image-Turbo, which was distilled to eight steps: training with single noise levels unlearns that, and "
        "images of few steps lose sharpness.",
    )


class ZImage:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "z_image"
    title = "Z-Image"
    settings = ZImageSettings
    adapter_keys = r"(^|[._])(layers|noise_refiner|context_refiner)[._]\d+[._](attention|feed_forward)[._]"

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is a ZImageTransformer2DModel, or a checkpoint in one file with its tensors."""
        from loraloom.extensions.families.z_image.source import KIND

        return KIND.matches(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.z_image.model import ZImageModel

        return ZImageModel(files)

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        if not type(pipeline).__name__.startswith("ZImage"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.z_image.lora_format import FORMAT, PARTS

        return wrap_pipeline(pipeline, self.name, PARTS, FORMAT)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.z_image.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = ZImage()
