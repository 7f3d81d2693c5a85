"""FLUX.1 dev and schnell: CLIP and T5 text encoders, AutoencoderKL, FluxTransformer2DModel.

In: the files of a model. Out: a `DiffusionModel` whose parts are read when they are first used.
"""

from pathlib import Path
from typing import Any

from loraloom.extensions.families._flow.options import part_file
from loraloom.protocols.model import DiffusionModel, ModelFiles
from loraloom.protocols.settings import Settings, setting


class FluxSettings(Settings):
    """Options of a FLUX.1 model."""

    training_guidance: float = setting(
        1.0,
        "Scale of embedded guidance that the denoiser is given in training; sd-scripts trains with 1.0, diffusers' script "
        "with 3.5. It is read by dev only: schnell has no such input.",
        ge=0,
        le=100,
    )
    t5_tokens: int = setting(
        0,
        "Number of tokens that T5 reads, padding included; 0: the model's own, 512 for dev and 256 for schnell. The denoiser "
        "attends to padding, so that generation uses the number of training.",
        ge=0,
        le=512,
    )
    vae_file: str = setting("", part_file("the VAE"))
    text_encoder_file: str = setting("", part_file("CLIP"))
    text_encoder_2_file: str = setting("", part_file("T5"))
    train_distilled: bool = setting(
        False,
        "Train on schnell, which was distilled to four steps: training with single noise levels unlearns that, and images of "
        "few steps lose sharpness.",
    )


class Flux:
    """The family record. Heavy libraries are imported when a model is opened."""

    name = "flux"
    title = "FLUX.1"
    settings = FluxSettings
    adapter_keys = (
        r"(^|[._])((double_blocks|single_blocks)[._]\d+[._](img_attn|txt_attn|img_mod|txt_mod|linear|modulation)"
        r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|norm\.)|transformer_blocks\.\d+\.attn\.add_q_proj)"
    )

    def matches(self, files: ModelFiles) -> bool:
        """Whether the files' denoiser is a FluxTransformer2DModel, or a checkpoint in one file with its tensors."""
        from loraloom.extensions.families.flux.source import KIND

        return KIND.matches(files)

    def open(self, files: ModelFiles) -> DiffusionModel:
        """Open without reading weights; raises `UserError` for what cannot be opened."""
        from loraloom.extensions.families.flux.model import FluxModel

        return FluxModel(files)

    def wrap(self, pipeline: Any) -> DiffusionModel | None:
        """A loaded pipeline of diffusers, for adapters."""
        name = type(pipeline).__name__
        if not name.startswith("Flux") or name.startswith("Flux2"):
            return None
        from loraloom.extensions.families._diffusers.pipelines import wrap_pipeline
        from loraloom.extensions.families.flux.lora_format import FORMAT, PARTS

        return wrap_pipeline(pipeline, self.name, PARTS, FORMAT)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        """Write a random-weight model of this layout, for trials and tests; see `tiny.build_tiny`."""
        from loraloom.utils.quiet import quiet

        with quiet():
            from loraloom.extensions.families.flux.tiny import build_tiny

            return build_tiny(folder, seed=seed)


FAMILY = Flux()
