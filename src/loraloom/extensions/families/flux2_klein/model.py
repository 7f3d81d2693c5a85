"""An opened FLUX.2 klein model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Layout and conditioning as in diffusers'
`Flux2KleinPipeline`: latents are patches of 2 x 2, normalised by the running statistics of the VAE's batch norm.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.extensions.families._flow.model import FlowModel, in_its_dtype
from loraloom.extensions.families._flow.packing import positions
from loraloom.extensions.families._flow.qwen import qwen3_class, qwen3_config
from loraloom.extensions.families._flow.qwen_text import QwenText
from loraloom.extensions.families._flow.schedule import flow_schedule
from loraloom.extensions.families._flow.weights import PartKind
from loraloom.extensions.families.flux2_klein.lora_format import FORMAT, PARTS
from loraloom.extensions.families.flux2_klein.source import KIND, LAYERS, check_configs, is_distilled
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

COPIED = ("model_index.json", "scheduler", "tokenizer")
AXES = 4
STATISTICS = ("bn.running_mean", "bn.running_var")
REMEDY = (
    "train on the base model of the same size (FLUX.2-klein-base), whose LoRAs work on the distilled one too; or add "
    "--model-option train_distilled=true, and the run then "
    "measures the sharpness of few-step images before and after"
)


def _transformer() -> Any:
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

    return Flux2Transformer2DModel


def _vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2

    return AutoencoderKLFlux2


def empirical_mu(num_tokens: int, num_steps: int) -> float:
    """The mu of an image's size and a number of steps, as Black Forest Labs fitted it (diffusers' `compute_empirical_mu`)."""
    for_200 = 0.00016927 * num_tokens + 0.45666666
    if num_tokens > 4300:
        return for_200
    slope = (for_200 - (8.73809524e-05 * num_tokens + 1.89833333)) / 190
    return for_200 + slope * (num_steps - 200)


class KleinModel(FlowModel):
    """See `protocols.model.DiffusionModel`."""

    lora_format = FORMAT

    def __init__(self, files: ModelFiles) -> None:
        files = KIND.complete(files)
        configs = check_configs(files)
        kinds = {
            "denoiser": PartKind(folder="transformer", kind=_transformer),
            "vae": PartKind(folder="vae", kind=_vae),
            "text_encoder": PartKind(
                folder="text_encoder", kind=partial(qwen3_class, files, "text_encoder"), config=qwen3_config
            ),
        }
        super().__init__(files, configs, kinds, family=KIND, copied=COPIED, latents={"scaling_factor": 1.0})
        self._distilled = is_distilled(files)
        self._text_tokens = int(files.options.get("text_tokens", 512))
        allowed = bool(files.options.get("train_distilled", False))
        num_steps = 4 if self._distilled else 50
        self.info = ModelInfo(
            family="flux2_klein",
            source=files.source,
            parts=PARTS,
            schedule=flow_schedule(configs["scheduler"], self._shift, steps=num_steps),
            latent_channels=int(configs["transformer"].get("in_channels", 128)),
            vae_scale_factor=2 * self._factor,
            size_multiple=2 * self._factor,
            guidance="cfg",
            defaults=SamplingDefaults(
                sampler="euler",
                num_steps=num_steps,
                guidance_scale=1.0 if self._distilled else 4.0,
                size_px=self.default_size(),
                exact_sampler="euler",
            ),
            distilled="this klein was distilled to four steps" if self._distilled else None,
            trains_if=REMEDY if self._distilled and not allowed else None,
        )
        self.text = QwenText(
            files,
            self.modules,
            configs["text_encoder"],
            num_tokens=self._text_tokens,
            layers=LAYERS,
            thinking=False,
            padded=True,
        )

    # -------------------------------------------------------------------------------------------------------- latents

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """(c, 1, 1) mean and standard deviation of patches of latents: two tensors of the VAE's files.

        They are read alone: training needs them at every step, when the VAE itself is out of memory.
        """
        read = {name: self._weights.tensor("vae", name) for name in STATISTICS}
        found = {name: tensor.float() for name, tensor in read.items() if tensor is not None}
        channels = (self.info.latent_channels,)
        for name in STATISTICS:
            if name not in found or tuple(found[name].shape) != channels or not bool(found[name].isfinite().all()):
                raise UserError(
                    f"vae: {name} is missing or not the config's",
                    got=tuple(found[name].shape) if name in found else "no such tensor",
                    expected=f"{channels[0]} finite numbers",
                    fix="download the model again",
                )
        mean, var = (found[name].view(-1, 1, 1) for name in STATISTICS)
        return mean, (var + float(self._configs["vae"].get("batch_norm_eps", 1e-4))).sqrt()

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to mean and log-variance of patches of 2 x 2 latents, float32, not normalised."""
        mean_bchw, logvar_bchw = self._vae.encode(pixels_bchw)
        return nn.functional.pixel_unshuffle(mean_bchw, 2), nn.functional.pixel_unshuffle(logvar_bchw, 2)

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - mean) / standard deviation, by the statistics of the VAE's batch norm."""
        mean, std = (one.to(raw_bchw) for one in self._statistics)
        return (raw_bchw - mean) / std

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Normalised patches of latents to pixels, float32 in [-1, 1]."""
        return self._vae.decode(nn.functional.pixel_shuffle(self._raw(latents_bchw.float()), 2))

    def _raw(self, latents_bchw: Tensor) -> Tensor:
        mean, std = (one.to(latents_bchw) for one in self._statistics)
        return latents_bchw * std + mean

    def _mu(self, height: int, width: int, num_steps: int) -> float:
        return empirical_mu(self.num_image_tokens(height, width), num_steps)

    # -------------------------------------------------------------------------------------------------------- denoiser

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """`text`: (b, l, d) embeddings of fixed length."""
        return {"text": torch.stack([text["text"] for text in texts])}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's velocity for noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        height, width = latents_bchw.shape[2:]
        device = latents_bchw.device
        dtype, context = in_its_dtype(denoiser, device)
        text_bld = conditioning["text"].to(dtype)
        text_ids = torch.zeros(text_bld.shape[1], AXES, device=device)
        text_ids[:, AXES - 1] = torch.arange(text_bld.shape[1], device=device)
        with context:
            answer_bld = denoiser(
                latents_bchw.flatten(2).transpose(1, 2),  # float32: the library rounds times to the dtype of latents
                encoder_hidden_states=text_bld,
                timestep=timesteps_b / 1000,
                guidance=None,
                txt_ids=text_ids,
                img_ids=positions(height, width, AXES, device),
                return_dict=False,
            )[0]
        return answer_bld.transpose(1, 2).unflatten(2, (height, width))

    # ----------------------------------------------------------------------------------------------------------- export

    def pipeline_class(self) -> Any:
        """Imported where it is used: the pipeline module pulls in much that training does not need."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

        return Flux2KleinPipeline

    def call_pipeline(self, pipeline: Any, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """See `FlowModel`. The pipeline reads no negative prompt of its own, only its embeddings, and gives raw latents."""
        if self._distilled and request.guidance_scale > 1:
            pipeline.register_to_config(is_distilled=False)  # else it would ignore the scale
        negative = None
        if request.guidance_scale > 1:
            negative, _ = pipeline.encode_prompt(request.negative_prompt, max_sequence_length=self._text_tokens)
        raw_bchw = pipeline(
            prompt=request.prompt,
            negative_prompt_embeds=negative,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            latents=noise_bchw.clone(),
            output_type="latent",
            max_sequence_length=self._text_tokens,
        ).images
        return self.scale_latents(nn.functional.pixel_unshuffle(raw_bchw, 2))
