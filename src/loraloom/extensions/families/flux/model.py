"""An opened FLUX.1 model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Layout and conditioning as in diffusers'
`FluxPipeline`; value of guidance in training as in sd-scripts' `flux_train_utils.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._diffusers.t5 import t5_config
from loraloom.extensions.families._flow.model import FlowModel, in_its_dtype
from loraloom.extensions.families._flow.packing import pack, positions, unpack
from loraloom.extensions.families._flow.schedule import flow_schedule
from loraloom.extensions.families._flow.weights import PartKind
from loraloom.extensions.families._ldm.clip import clip_config
from loraloom.extensions.families.flux.lora_format import FORMAT, PARTS
from loraloom.extensions.families.flux.source import KIND, check_configs, is_distilled
from loraloom.extensions.families.flux.text import FluxText
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import (
    Conditioning,
    ImageGeometry,
    ModelFiles,
    ModelInfo,
    SamplingDefaults,
    Tensors,
)

COPIED = ("model_index.json", "scheduler", "tokenizer", "tokenizer_2")
AXES = 3
REMEDY = (
    "train on FLUX.1 dev, whose LoRAs work on schnell too; or add --model-option train_distilled=true, and the run then "
    "measures the sharpness of few-step images before and after"
)


def _transformer() -> Any:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return FluxTransformer2DModel


def _vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL


def _clip() -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel


def _t5() -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel


KINDS = {
    "denoiser": PartKind(folder="transformer", kind=_transformer),
    "vae": PartKind(folder="vae", kind=_vae),
    "text_encoder": PartKind(folder="text_encoder", kind=_clip, config=clip_config),
    "text_encoder_2": PartKind(folder="text_encoder_2", kind=_t5, config=t5_config),
}


class FluxModel(FlowModel):
    """See `protocols.model.DiffusionModel`."""

    lora_format = FORMAT

    def __init__(self, files: ModelFiles) -> None:
        files = KIND.complete(files)
        configs = check_configs(files)
        super().__init__(files, configs, KINDS, family=KIND, copied=COPIED)
        transformer, distilled = configs["transformer"], is_distilled(configs)
        self._embedded = bool(transformer.get("guidance_embeds", False))
        self._training_guidance = float(files.options.get("training_guidance", 1.0))
        self._t5_tokens = int(files.options.get("t5_tokens", 0)) or (256 if distilled else 512)
        allowed = bool(files.options.get("train_distilled", False))
        self.info = ModelInfo(
            family="flux",
            source=files.source,
            parts=PARTS,
            schedule=flow_schedule(configs["scheduler"], self._shift),
            latent_channels=int(transformer.get("in_channels", 64)) // 4,
            vae_scale_factor=self._factor,
            size_multiple=2 * self._factor,
            guidance="embedded" if self._embedded else "cfg",
            defaults=SamplingDefaults(
                sampler="euler",
                num_steps=4 if distilled else 28,
                guidance_scale=3.5 if self._embedded else 1.0,
                size_px=self.default_size(),
                exact_sampler="euler",
            ),
            distilled="schnell was distilled to four steps" if distilled else None,
            trains_if=REMEDY if distilled and not allowed else None,
        )
        self.text = FluxText(files, self.modules, configs, self._t5_tokens)

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """What the denoiser is given.

        Returns:
            `pooled`: (b, p) of CLIP; `t5`: (b, l, d); `guidance`: (b,) float32, where the denoiser has that input: in training
            the option `training_guidance`.
        """
        batch = {name: torch.stack([text[name] for text in texts]) for name in ("pooled", "t5")}
        if self._embedded:
            scale = self._training_guidance if guidance_scale is None else guidance_scale
            batch["guidance"] = torch.full((len(texts),), scale, device=batch["pooled"].device)
        return batch

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's velocity for noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        height, width = latents_bchw.shape[2:]
        device = latents_bchw.device
        dtype, context = in_its_dtype(denoiser, device)
        text_bld = conditioning["t5"].to(dtype)
        with context:
            answer_bld = denoiser(
                pack(latents_bchw).to(dtype),
                encoder_hidden_states=text_bld,
                pooled_projections=conditioning["pooled"].to(dtype),
                timestep=timesteps_b / 1000,
                guidance=conditioning.get("guidance"),
                txt_ids=torch.zeros(text_bld.shape[1], AXES, device=device),
                img_ids=positions(height // 2, width // 2, AXES, device),
                return_dict=False,
            )[0]
        return unpack(answer_bld, height, width)

    def pipeline_class(self) -> Any:
        """Imported where it is used: the pipeline module pulls in much that training does not need."""
        from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

        return FluxPipeline

    def call_pipeline(self, pipeline: Any, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """See `FlowModel`."""
        guided: dict[str, Any] = {"guidance_scale": request.guidance_scale}
        if not self._embedded:
            guided = {"true_cfg_scale": request.guidance_scale, "negative_prompt": request.negative_prompt}
        packed = pipeline(
            prompt=request.prompt,
            **guided,
            num_inference_steps=request.num_steps,
            width=request.width,
            height=request.height,
            latents=pack(noise_bchw),
            output_type="latent",
            max_sequence_length=self._t5_tokens,
        ).images
        return unpack(packed, *noise_bchw.shape[2:])
