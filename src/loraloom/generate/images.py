"""Generate images: requests in, finished images out, one after another.

In: a model with its adapters, a function that encodes prompts, requests. Out: an iterator of `GeneratedImage`. The seed of
an image determines all its noise, so it does not depend on the other images of its batch.
Guidance: Ho & Salimans 2022, uncond + scale (cond - uncond).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loraloom.generate.blending import Blending
from loraloom.generate.recipes import MAX_SIDE_PX
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import Conditioning, DiffusionModel, ImageGeometry, Tensors
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.rng import generator, normal

MAX_PIXELS = 1 << 26
"""Maximum number of pixels of an image, 8192 x 8192: more than the largest GPU decodes at once."""

Encode = Callable[[Sequence[str]], list[Tensors]]
"""Encodes prompts to their named tensors."""


@dataclass(frozen=True, slots=True)
class InpaintRegion:
    """An image of which a part is inpainted.

    Attributes:
        latents_bchw: (b, c, h, w) float32 scaled latents of the image.
        inpaint_hw: (h, w) bool, True where latents are replaced; the others are kept.
    """

    latents_bchw: Tensor
    inpaint_hw: Tensor


@dataclass(frozen=True, slots=True)
class Contrast:
    """Prompts that lack details: guidance amplifies what the request's prompt adds to them.

    Attributes:
        prompts: One prompt for each request.
        scale: Factor of the difference between the predictions for the request's prompt and for this one, which is added
            to the guided prediction (as in SEGA, Brack et al. 2023, without its thresholds and momentum).
    """

    prompts: Sequence[str]
    scale: float


class StoppedError(Exception):
    """Generation was stopped by its caller."""


def generate(
    model: DiffusionModel,
    encode: Encode,
    requests: Sequence[ImageRequest],
    *,
    batch_size: int = 1,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    blending: Callable[[Sequence[ImageRequest]], Blending | None] = lambda requests: None,
    mixed: bool = False,
) -> Iterator[GeneratedImage]:
    """Generate an image for every request, in order.

    Args:
        model: Model with denoiser and VAE placed, and adapters attached.
        encode: The prompt encoder, or a look-up of tensors that are already encoded.
        requests: Consecutive requests with equal settings share a batch.
        batch_size: Maximum number of images in a batch.
        autocast: Precision of denoiser and VAE.
        progress: Called with (denoising steps done, all denoising steps).
        stop: Called before every denoising step; True stops.
        blending: Called before each batch with its requests: sets the scales of the LoRAs, or returns a blend that changes
            them during the batch.
        mixed: Whether requests with different LoRA settings share a batch.

    Raises:
        UserError: A size that the model does not support, or an unknown sampler.
        StoppedError: `stop` returned True.
    """
    total = sum(request.num_steps for request in requests)
    done = 0
    for request in requests:
        check_size(model, request)
    for items in same_settings(list(enumerate(requests)), mixed=mixed):
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            began = time.perf_counter()

            def count(step: int, size: int = len(batch), before: int = done) -> None:
                if stop():
                    raise StoppedError
                if progress:
                    progress(before + step * size, total)

            batch_requests = [request for _, request in batch]
            latents_bchw = denoise(
                model,
                encode,
                batch_requests,
                autocast=autocast,
                on_step=count,
                blending=blending(batch_requests),
            )
            images = to_images(model, latents_bchw)
            done += sum(request.num_steps for _, request in batch)
            seconds = (time.perf_counter() - began) / len(batch)
            for (index, request), image in zip(batch, images, strict=True):
                yield GeneratedImage(index=index, request=request, image=image, seconds=seconds)
    if progress and requests:
        progress(total, total)


@torch.inference_mode()
def denoise(
    model: DiffusionModel,
    encode: Encode,
    requests: Sequence[ImageRequest],
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    on_step: Callable[[int], None] = lambda step: None,
    noise_bchw: Tensor | None = None,
    region: InpaintRegion | None = None,
    contrast: Contrast | None = None,
    blending: Blending | None = None,
) -> Tensor:
    """(b, c, h, w) float32 latents of requests with equal settings; `noise_bchw` replaces the seeds' first noise.

    With `region`, latents outside its mask follow the given image at every step (RePaint, Lugmayr et al. 2022,
    equation 8, without resampling). With `contrast` the denoiser predicts for its prompts too at every step. With
    `blending` the scales of the LoRAs change from step to step, those of text encoders too.
    """
    first = requests[0]
    info = model.info
    weight = next(model.modules.get(info.denoiser.name).parameters())
    texts = [[request.text for request in requests]]
    scale = first.guidance_scale if info.guidance == "cfg" and first.guidance_scale != 1.0 else None
    if scale is not None:
        texts.insert(0, [request.negative_prompt for request in requests])
    if contrast:
        texts.append(list(contrast.prompts))
    conditionings: dict[object, Conditioning] = {}

    def conditioning() -> Conditioning:
        """What the prompts say; once for each setting of the text encoders."""
        key = blending.text_setting() if blending else None
        if key not in conditionings:
            conditionings[key] = _conditioning(model, encode, texts, first, weight)
        return conditionings[key]

    if not blending:
        conditioning()
    sampler = model.sampler(first.sampler, first.num_steps, first.height, first.width)
    shape = (info.latent_channels, first.height // info.vae_scale_factor, first.width // info.vae_scale_factor)
    if noise_bchw is None:
        noise_bchw = torch.stack([normal(shape, request.seed, "picture") for request in requests])
    generators = [generator(request.seed, "sampler") for request in requests]
    latents_bchw = noise_bchw.to(weight.device) * sampler.init_noise_sigma
    for number, timestep in enumerate(sampler.timesteps):
        on_step(number)
        seen_bchw = torch.cat([sampler.scale_input(latents_bchw, timestep)] * len(texts))

        def evaluate(seen_bchw: Tensor = seen_bchw, timestep: Tensor = timestep) -> Tensor:
            with autocast():
                timesteps_b = timestep.float().expand(seen_bchw.shape[0])
                answers_bchw = model.predict(seen_bchw, timesteps_b, conditioning()).float()
            return _guided(answers_bchw.chunk(len(texts)), scale, contrast)

        num_steps = len(sampler.timesteps)
        answer_bchw = blending.answer(number, num_steps, latents_bchw, evaluate) if blending else evaluate()
        latents_bchw = sampler.step(answer_bchw, timestep, latents_bchw, generators)
        if region:
            kept_bchw = sampler.noised(region.latents_bchw.to(latents_bchw), noise_bchw.to(latents_bchw), number + 1)
            latents_bchw = torch.where(region.inpaint_hw.to(latents_bchw.device), latents_bchw, kept_bchw)
    return latents_bchw


@torch.inference_mode()
def to_images(model: DiffusionModel, latents_bchw: Tensor) -> list[Image.Image]:
    """Decode latents to RGB images: one by one, because decoding takes most memory, and in full precision, because half
    precision overflows in some decoders."""
    if not bool(torch.isfinite(latents_bchw).all()):
        raise UserError(
            "the image is NaN: the denoiser overflowed",
            fix="generate in full precision (mixed_precision=no), or lower the guidance and the scales of the adapters",
        )
    images: list[Image.Image] = []
    for one_chw in latents_bchw:
        pixels_chw = model.decode_latents(one_chw[None])[0]
        if not bool(torch.isfinite(pixels_chw).all()):  # as bytes they would be any colour
            raise UserError("the VAE decoded NaN or infinity", fix="use another model or VAE")
        array_hwc = ((pixels_chw + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        images.append(Image.fromarray(np.ascontiguousarray(array_hwc)))
    return images


def check_size(model: DiffusionModel, request: ImageRequest) -> None:
    """Raise `UserError` for a size that the model does not support."""
    step = model.info.size_multiple
    if max(request.width, request.height) > MAX_SIDE_PX or request.width * request.height > MAX_PIXELS:
        raise UserError(
            "images of this size cannot be generated",
            got=f"{request.width}x{request.height}",
            expected=f"sides of at most {MAX_SIDE_PX:,} px, at most {MAX_PIXELS:,} px in total",
        )
    if min(request.width, request.height) < step or request.width % step or request.height % step:
        raise UserError(
            "images of this size cannot be generated",
            got=f"{request.width}x{request.height}",
            expected=f"multiples of {step}",
            fix=f"try {max(step, request.width // step * step)}x{max(step, request.height // step * step)}",
        )


def negative_prompts(model: DiffusionModel, requests: Sequence[ImageRequest]) -> list[str]:
    """The distinct negative prompts that the model reads: none with embedded guidance or a guidance scale of 1."""
    if model.info.guidance == "embedded":
        return []
    return list(dict.fromkeys(request.negative_prompt for request in requests if request.guidance_scale != 1.0))


def unread_negative(model: DiffusionModel, requests: Sequence[ImageRequest]) -> str | None:
    """A warning about negative prompts that a model with embedded guidance cannot read; None if there are none."""
    count = len({request.negative_prompt for request in requests} - {""})
    if model.info.guidance == "cfg" or not count:
        return None
    return (
        f"warning: this model reads no negative prompt (its guidance is embedded): {count} negative "
        f"prompt{'s are' if count > 1 else ' is'} ignored"
    )


def _conditioning(
    model: DiffusionModel, encode: Encode, texts: Sequence[Sequence[str]], request: ImageRequest, weight: Tensor
) -> Conditioning:
    """Conditioning of several lists of prompts, concatenated, for images of one size, on the device of `weight`."""
    encoded = [tensors for prompts in texts for tensors in encode(prompts)]
    size = (request.width, request.height)
    geometry = [ImageGeometry(original=size, crop=(0, 0), target=size)] * len(encoded)
    scale = request.guidance_scale if model.info.guidance == "embedded" else None
    conditioning = model.condition(encoded, geometry, scale)
    return {name: tensor.to(weight.device) for name, tensor in conditioning.items()}


def _guided(answers: Sequence[Tensor], scale: float | None, contrast: Contrast | None) -> Tensor:
    """The guided prediction from those for negative prompts (unless `scale` is None), prompts, and contrast prompts."""
    asked_bchw = answers[0] if scale is None else answers[1]
    answer_bchw = asked_bchw
    if scale is not None:
        answer_bchw = answers[0] + scale * (asked_bchw - answers[0])
    if contrast:
        answer_bchw = answer_bchw + contrast.scale * (asked_bchw - answers[-1])
    return answer_bchw


def same_settings(
    numbered: Sequence[tuple[int, ImageRequest]], *, mixed: bool = False
) -> list[list[tuple[int, ImageRequest]]]:
    """Runs of consecutive requests that may share a batch; with `mixed` whatever their LoRA settings are."""
    return [list(run) for _, run in groupby(numbered, key=lambda item: _settings(item[1], mixed=mixed))]


def _settings(request: ImageRequest, *, mixed: bool) -> tuple[object, ...]:
    """The settings that all images of a batch share."""
    loras = None if mixed else request.loras
    return request.num_steps, request.guidance_scale, request.sampler, request.width, request.height, loras
