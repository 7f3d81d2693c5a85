"""An opened Z-Image model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Layout and conditioning as in diffusers'
`ZImagePipeline`: the denoiser's time runs from 0 (noise) to 1 (image), and its output is the negated velocity.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._flow.model import FlowModel, in_its_dtype
from loraloom.extensions.families._flow.qwen import qwen3_class, qwen3_config
from loraloom.extensions.families._flow.qwen_text import QwenText
from loraloom.extensions.families._flow.schedule import flow_schedule
from loraloom.extensions.families._flow.source import is_called
from loraloom.extensions.families._flow.weights import PartKind
from loraloom.extensions.families.z_image.lora_format import FORMAT, PARTS
from loraloom.extensions.families.z_image.source import KIND, check_configs
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
PENULTIMATE = -2
MULTIPLE = 32
"""The denoiser pads text to a multiple of this many tokens."""
REMEDY = (
    "train on Z-Image (the base), whose LoRAs work on Turbo too; or merge the adapter ostris/zimage_turbo_training_adapter "
    "first; or add --model-option train_distilled=true, and the run then "
    "measures the sharpness of few-step images before and after"
)


def _transformer() -> Any:
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

    return ZImageTransformer2DModel


def _vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL


class ZImageModel(FlowModel):
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
        super().__init__(files, configs, kinds, family=KIND, copied=COPIED)
        transformer, turbo = configs["transformer"], is_called(files, "turbo")
        self._text_tokens = int(files.options.get("text_tokens", 512))
        self._lengths = [int(length) for length in transformer.get("axes_lens", (1024, 512, 512))]
        allowed = bool(files.options.get("train_distilled", False))
        self.info = ModelInfo(
            family="z_image",
            source=files.source,
            parts=PARTS,
            schedule=flow_schedule(configs["scheduler"], self._shift),
            latent_channels=int(transformer.get("in_channels", 16)),
            vae_scale_factor=self._factor,
            size_multiple=2 * self._factor,
            guidance="cfg",
            defaults=SamplingDefaults(
                sampler="euler",
                num_steps=8 if turbo else 40,
                guidance_scale=1.0 if turbo else 5.0,
                size_px=self.default_size(),
                exact_sampler="euler",
            ),
            distilled="Z-Image-Turbo was distilled to eight steps" if turbo else None,
            trains_if=REMEDY if turbo and not allowed else None,
        )
        self.text = QwenText(
            files,
            self.modules,
            configs["text_encoder"],
            num_tokens=self._text_tokens,
            layers=(PENULTIMATE,),
            thinking=True,
            padded=False,
        )

    def check_size(self, height: int, width: int) -> None:
        """Raise `UserError` for a size, or a text length, beyond the tables of positions."""
        step = 2 * self._factor
        if height > self._lengths[1] * step or width > self._lengths[2] * step:
            raise UserError(
                "the denoiser has no positions for images of this size",
                got=f"{width}x{height}",
                expected=f"at most {self._lengths[2] * step}x{self._lengths[1] * step} (axes_lens in its config)",
            )
        if self._text_tokens + MULTIPLE + 1 > self._lengths[0]:
            raise UserError(
                "the denoiser has no positions for so long a text",
                got=f"{self._text_tokens} tokens",
                expected=f"at most {self._lengths[0] - MULTIPLE - 1} (axes_lens in its config)",
                fix="lower --model-option text_tokens",
            )

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """What the denoiser is given.

        Returns:
            `text`: (b, l, d) embeddings, zeros after shorter ones; `mask`: (b, l) bool, where lengths differ in a batch.
        """
        for place in geometry:
            self.check_size(place.target[1], place.target[0])
        rows = [text["text"] for text in texts]
        text_bld = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if all(len(row) == text_bld.shape[1] for row in rows):
            return {"text": text_bld}
        lengths_b = torch.tensor([len(row) for row in rows], device=text_bld.device)
        return {"text": text_bld, "mask": torch.arange(text_bld.shape[1], device=text_bld.device) < lengths_b[:, None]}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's velocity for noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        dtype, context = in_its_dtype(denoiser, latents_bchw.device)
        text_bld, mask_bl = conditioning["text"].to(dtype), conditioning.get("mask")
        lengths = [text_bld.shape[1]] * len(text_bld) if mask_bl is None else mask_bl.sum(dim=1).tolist()
        with context:
            answers = denoiser(
                list(latents_bchw.to(dtype).unsqueeze(2).unbind(0)),
                1 - timesteps_b / 1000,
                [row[:length] for row, length in zip(text_bld, lengths, strict=True)],
                return_dict=False,
            )[0]
        return -torch.stack(answers).squeeze(2)

    def pipeline_class(self) -> Any:
        """Imported where it is used: the pipeline module pulls in much that training does not need."""
        from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline

        return ZImagePipeline

    def call_pipeline(self, pipeline: Any, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """See `FlowModel`. The pipeline adds its scale times the difference: its 4 is our 5."""
        return pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale - 1,
            width=request.width,
            height=request.height,
            latents=noise_bchw.clone(),
            output_type="latent",
            max_sequence_length=self._text_tokens,
        ).images
