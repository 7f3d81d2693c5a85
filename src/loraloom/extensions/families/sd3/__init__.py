"""Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, AutoencoderKL, SD3Transformer2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.extensions.families._flow.options import part_file
from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class Sd3Settings(Settings):
    """Options of a Stable Diffusion 3 model."""

    t5: bool = setting(
        True,
        "Read prompts with T5 too; without it T5 is never loaded, its places in the prompt embeddings are zeros as in "
        "diffusers' pipeline, and a prompt ends after 75 tokens of CLIP.",
    )
    t5_tokens: int = setting(
        256,
        "Number of tokens that T5 reads, padding included; the denoiser attends to padding, so that generation uses the "
        "number of training.",
        ge=2,
        le=512,
    )
    vae_file: str = setting("", part_file("the VAE"))
    text_encoder_file: str = setting("", part_file("CLIP-L"))
    text_encoder_2_file: str = setting("", part_file("CLIP-G"))
    text_encoder_3_file: str = setting("", part_file("T5"))
    train_distilled: bool = setting(
        False,
        "Train on 3.5 large turbo, which was distilled to four steps: training with single noise levels unlearns that, and "
        "images of few steps lose sharpness.",
    )


class StableDiffusion3:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "sd3"
    title = "Stable Diffusion 3"
    settings = Sd3Settings
    adapter_keys = (
        r"(^|[._])joint_blocks[._]\d+[._]|^(transformer\.|base_model\.model\.)?transformer_blocks\.\d+\.attn2?\."
    )

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is an SD3Transformer2DModel, or a checkpoint in one file with its tensors."""
        from loraloom.extensions.families.sd3.source import KIND

        return KIND.matches(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.sd3.model import Sd3Model

        return Sd3Model(files)

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        if not type(pipeline).__name__.startswith("StableDiffusion3"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.sd3.lora_format import FORMAT, parts_of

        return wrap_pipeline(pipeline, self.name, parts_of(len(pipeline.transformer.transformer_blocks)), FORMAT)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.sd3.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = StableDiffusion3()
