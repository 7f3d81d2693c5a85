"""FLUX.2 klein, base and distilled: a Qwen3 text encoder, AutoencoderKLFlux2, Flux2Transformer2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.extensions.families._flow.options import part_file
from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class KleinSettings(Settings):
    """Options of a FLUX.2 klein model."""

    text_tokens: int = setting(
        512,
        "Number of tokens that the text encoder reads, the twelve of its chat template and padding included; the denoiser "
        "attends to padding, so that generation uses the number of training.",
        ge=16,
        le=1024,
    )
    vae_file: str = setting("", part_file("the VAE"))
    text_encoder_file: str = setting("", part_file("Qwen3"))
    train_distilled: bool = setting(
        False,
        "Train on the distilled klein, which makes an image in four steps: training with single noise levels unlearns that, "
        "and images of few steps lose sharpness.",
    )


class Flux2Klein:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "flux2_klein"
    title = "FLUX.2 klein"
    settings = KleinSettings
    adapter_keys = (
        r"(^|[._])(single_transformer_blocks\.\d+\.attn\.to_(qkv_mlp_proj|out)\.|(double|single)_stream_modulation)"
    )

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is a Flux2Transformer2DModel, or a checkpoint in one file with its tensors."""
        from loraloom.extensions.families.flux2_klein.source import KIND

        return KIND.matches(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.flux2_klein.model import KleinModel

        return KleinModel(files)

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        if not type(pipeline).__name__.startswith("Flux2Klein"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.flux2_klein.lora_format import FORMAT, PARTS

        return wrap_pipeline(pipeline, self.name, PARTS, FORMAT)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.flux2_klein.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = Flux2Klein()
