"""An opened Stable Diffusion 3 model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Esser et al. 2024, "Scaling Rectified Flow
Transformers"; layout and conditioning as in diffusers' `StableDiffusion3Pipeline`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.extensions.families._diffusers.t5 import t5_config
from loraloom.extensions.families._flow.model import FlowModel, in_its_dtype
from loraloom.extensions.families._flow.schedule import flow_schedule
from loraloom.extensions.families._flow.source import is_called
from loraloom.extensions.families._flow.weights import PartKind
from loraloom.extensions.families._ldm.clip import clip_config
from loraloom.extensions.families.sd3.lora_format import FORMAT, parts_of
from loraloom.extensions.families.sd3.source import KIND, T5_PART, check_configs
from loraloom.extensions.families.sd3.text import Sd3Text
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import (
    Conditioning,
    ImageGeometry,
    ModelFiles,
    ModelInfo,
    SamplingDefaults,
    Tensors,
)
from loraloom.utils.errors import UserError

REMEDY = (
    "train on Stable Diffusion 3.5 large, whose LoRAs work on turbo too; or add --model-option train_distilled=true, and the "
    "run then measures the sharpness of few-step images before and after"
)
COPIED = ("model_index.json", "scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")


def _transformer() -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return SD3Transformer2DModel


def _vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL


def _clip() -> Any:
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection


def _t5() -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel


KINDS = {
    "denoiser": PartKind(folder="transformer", kind=_transformer),
    "vae": PartKind(folder="vae", kind=_vae),
    "text_encoder": PartKind(folder="text_encoder", kind=_clip, config=clip_config),
    "text_encoder_2": PartKind(folder="text_encoder_2", kind=_clip, config=clip_config),
    T5_PART: PartKind(folder=T5_PART, kind=_t5, config=t5_config),
}


class Sd3Model(FlowModel):
    """See `protocols.model.DiffusionModel`."""

    lora_format = FORMAT
    times_from_one = False

    def __init__(self, files: ModelFiles) -> None:
        files = KIND.complete(files)
        configs = check_configs(files)
        t5 = T5_PART in configs
        kinds = {part: kind for part, kind in KINDS.items() if t5 or part != T5_PART}
        copied = COPIED if t5 else COPIED[:-1]
        super().__init__(
            files, configs, kinds, family=KIND, copied=copied, absent=() if t5 else (T5_PART, "tokenizer_3")
        )
        transformer, turbo = configs["transformer"], is_called(files, "turbo")
        allowed = bool(files.options.get("train_distilled", False))
        self._t5_tokens = int(files.options.get("t5_tokens", 256))
        self._joint_width = int(transformer.get("joint_attention_dim", 4096))
        self._most_patches = int(transformer.get("pos_embed_max_size", 96))
        self.info = ModelInfo(
            family="sd3",
            source=files.source,
            parts=parts_of(int(transformer.get("num_layers", 18)), t5=t5),
            schedule=flow_schedule(configs["scheduler"], self._shift),
            latent_channels=int(transformer.get("in_channels", 16)),
            vae_scale_factor=self._factor,
            size_multiple=2 * self._factor,
            guidance="cfg",
            defaults=SamplingDefaults(
                sampler="euler",
                num_steps=4 if turbo else 28,
                guidance_scale=1.0 if turbo else 4.5,
                size_px=int(transformer.get("sample_size", 128)) * self._factor,
                exact_sampler="euler",
            ),
            distilled="3.5 large turbo was distilled to four steps" if turbo else None,
            trains_if=REMEDY if turbo and not allowed else None,
        )
        self.text = Sd3Text(files, self.modules, configs, self._t5_tokens)

    def check_size(self, height: int, width: int) -> None:
        """Raise `UserError` for a side beyond the table of positions, of which the middle is cut out for each size."""
        most = self._most_patches * 2 * self._factor
        if max(height, width) > most:
            raise UserError(
                "the denoiser has no positions for images of this size",
                got=f"{width}x{height}",
                expected=f"sides of at most {most} px (pos_embed_max_size in its config)",
            )

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """What the denoiser is given.

        Returns:
            `clip`: (b, 77, d) states of both CLIP encoders; `t5`: (b, l, d) of T5, where there is one; `pooled`: (b, p).
        """
        for place in geometry:
            self.check_size(place.target[1], place.target[0])
        return {name: torch.stack([text[name] for text in texts]) for name in texts[0]}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's velocity for noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        dtype, context = in_its_dtype(denoiser, latents_bchw.device)
        with context:
            return denoiser(
                latents_bchw.to(dtype),
                encoder_hidden_states=self._joint(conditioning).to(dtype),
                pooled_projections=conditioning["pooled"].to(dtype),
                timestep=timesteps_b,
                return_dict=False,
            )[0]

    def _joint(self, conditioning: Conditioning) -> Tensor:
        """(b, 77 + l, d): CLIP's states, as wide as T5's by zeros, then T5's; zeros in place of a T5 that was left out."""
        clip_bkd = conditioning["clip"]
        clip_bkd = nn.functional.pad(clip_bkd, (0, self._joint_width - clip_bkd.shape[-1]))
        t5_bld = conditioning.get("t5")
        if t5_bld is None:
            t5_bld = clip_bkd.new_zeros(clip_bkd.shape[0], self._t5_tokens, self._joint_width)
        return torch.cat([clip_bkd, t5_bld.to(clip_bkd.dtype)], dim=1)

    def pipeline_class(self) -> Any:
        """Imported where it is used: the pipeline module pulls in much that training does not need."""
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

        return StableDiffusion3Pipeline

    def call_pipeline(self, pipeline: Any, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """See `FlowModel`."""
        return pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            latents=noise_bchw.clone(),
            output_type="latent",
            max_sequence_length=self._t5_tokens,
        ).images
