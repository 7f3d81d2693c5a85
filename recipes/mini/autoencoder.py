"""Fit the autoencoder on synthetic images, then give its latents zero mean and unit variance.

In: RGB images. Out: an `AutoencoderKL`. Loss: L1 + mean square, with larger weights for edges and rare colours, a small KL
term, and for flat images a cross-entropy: among the colours of the image each pixel must be nearest to its own. There is
no perceptual or adversarial term, because flat colours do not require one. Latents are normalised per channel by the
weights of the two 1x1 convolutions, so that scaling_factor is 1 and every channel gets the same noise.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loraloom.utils.rng import derive_seed
from recipes.mini.canvas import Canvas, Crops, signed
from recipes.mini.data import SIZE_PX
from recipes.mini.fitting import LOG_EVERY, Fit, Job, Way, fit
from recipes.mini.twins import twins_of

CROP_PX = 128
WHOLE_FROM = 0.6
"""Share of the steps on crops; whole images follow, because group norms depend on the ground of the whole image."""
KL_WEIGHT = 1e-6
EDGE_WEIGHT = 4.0
RAREST = 8.0
COLOUR_WEIGHT = 0.03
COLOUR_WIDTH = 0.015
"""Width of the cross-entropy, in squared distances of RGB in [-1, 1]: colours 35 of 255 apart are 5 widths apart."""
LATENT_NOISE = 0.3
"""Largest noise; a denoiser of this size leaves errors of 0.1 to 0.2 at walls and doors (decision 0011)."""
JOINT_NOISE = 0.2
"""The same while the encoder is also trained, in deviations of each channel: it gives thin structures more contrast."""
LOUDER_NOISE, LOUDER_SHARE = 0.3, 0.6
"""Largest noise, and the share of images with noise, while the encoder learns more contrast; the others stay sharp."""
KEEP_WEIGHT, TWIN_WEIGHT = 30.0, 0.2
WIDEST = 1.2
"""Deviation of an image's channel above which the loss increases, so that only thin structures gain contrast."""


def fit_autoencoder(vae: Any, canvas: Canvas, steps: int, way: Way, job: Job, *, decoder_only: bool = False) -> bool:
    """Train, or continue training; returns whether all steps are done.

    Args:
        vae: Autoencoder from `make_autoencoder`; trained in place.
        canvas: Training images.
        steps: Number of optimizer steps.
        way: Batch size, in crops; a batch of whole images is a quarter of it.
        job: State and device.
        decoder_only: Train the decoder only, so that existing latents stay valid. It becomes robust against errors of a
            denoiser: noise of a random deviation up to `LATENT_NOISE` for each image is added to latents of deviation 1.
    """
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    device = job.device
    # On a CPU channels_last made a step 5 times slower with so few channels (two cores of an AMD EPYC, torch 2.15).
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    vae.to(device=device, memory_format=layout).train()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        whole = decoder_only or step >= WHOLE_FROM * steps
        count, size_px = (max(1, way.batch_size // 4), SIZE_PX) if whole else (way.batch_size, CROP_PX)
        crops = canvas.crops(count, size_px, "autoencoder", int(decoder_only), step)
        pixels_bchw = crops.pixels_bchw.contiguous(memory_format=layout)
        torch.manual_seed(derive_seed("autoencoder", step))
        with way.autocast(device):
            posterior = vae.encode(pixels_bchw).latent_dist
            latents_bchw = posterior.sample()
            unit_1c11 = 1.0 if decoder_only else latents_bchw.detach().float().std((0, 2, 3), keepdim=True)
            most = LATENT_NOISE if decoder_only else JOINT_NOISE
            deviation_bc11 = most * unit_1c11 * torch.rand(count, 1, 1, 1, device=device)
            noisy_bchw = latents_bchw + deviation_bc11 * torch.randn_like(latents_bchw)
            seen_bchw = vae.decode(noisy_bchw).sample
        total, error = reconstruction(seen_bchw.float(), crops)
        told = {"mean_error_of_255": float(error) * 127.5} if step % LOG_EVERY == LOG_EVERY - 1 else {}
        return total + KL_WEIGHT * posterior.kl().mean(), told

    done = fit(vae, loss, Fit(steps, 2e-3, weight_decay=1e-4), job)
    vae.to(memory_format=torch.contiguous_format).eval()
    return done


def amplify_thin_structures(vae: Any, canvas: Canvas, known: Canvas, steps: int, way: Way, job: Job) -> bool:
    """Train a fitted autoencoder with latents of unit deviation further; returns whether all steps are done.

    Its encoder learns to give thin structures the same contrast in similar colours as in different ones (`twins`), and
    to keep the latents of known images, so that a denoiser does not have to be trained again.

    Args:
        vae: The autoencoder, the same at every call: latents of its current weights are kept.
        canvas: Images whose thin structures gain contrast, in any colours.
        known: Images whose latents are kept.
        steps: Number of optimizer steps.
        way: Batch size; a quarter of it is whole images of `canvas`, another quarter of `known`.
        job: State and device.
    """
    device = job.device
    vae.to(device).train().requires_grad_(True)
    before = deepcopy(vae).eval().requires_grad_(False)
    count = max(1, way.batch_size // 4)

    def seen(latents_bchw: Tensor) -> Tensor:
        most_b111 = LOUDER_NOISE * (torch.rand(len(latents_bchw), 1, 1, 1, device=device) < LOUDER_SHARE)
        deviation_b111 = most_b111 * torch.rand(len(latents_bchw), 1, 1, 1, device=device)
        return vae.decode(latents_bchw + deviation_b111 * torch.randn_like(latents_bchw)).sample.float()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        torch.manual_seed(derive_seed("louder", step))
        twins = twins_of(
            canvas.crops(count, SIZE_PX, "louder", step), np.random.default_rng(derive_seed("twins", step))
        )
        kept = known.crops(count, SIZE_PX, "kept", step)
        flat = len(twins.pixels_fchw)
        with way.autocast(device):
            every_bchw = torch.cat([twins.crops.pixels_bchw, twins.pixels_fchw, kept.pixels_bchw])
            latents_bchw, twins_fchw, kept_bchw = vae.encode(every_bchw).latent_dist.mean.split([count, flat, count])
            with torch.no_grad():
                were_bchw = before.encode(kept.pixels_bchw).latent_dist.mean
            images_bchw, known_bchw = seen(latents_bchw), seen(kept_bchw)
        total, error = reconstruction(images_bchw, twins.crops)
        of_known, _ = reconstruction(known_bchw, kept)
        moved = (kept_bchw.float() - were_bchw.float()).square().mean()
        faint = twins.loss(latents_bchw[:flat].float(), twins_fchw.float())
        wide = F.relu(latents_bchw.float().std((2, 3)) - WIDEST).square().mean()
        numbers: dict[str, float] = {}
        if step % LOG_EVERY == LOG_EVERY - 1:
            numbers = {
                "mean_error_of_255": float(error) * 127.5,
                "moved": float(moved.detach()) ** 0.5,
                "faint": float(faint.detach()),
            }
        return (total + of_known) / 2 + KEEP_WEIGHT * moved + TWIN_WEIGHT * faint + wide, numbers

    done = fit(vae, loss, Fit(steps, 1.2e-3, weight_decay=1e-4, average=0.99), job)
    vae.eval()
    return done


def reconstruction(seen_bchw: Tensor, crops: Crops) -> tuple[Tensor, Tensor]:
    """The loss of decoded images () and their mean absolute error ()."""
    pixels_bchw = crops.pixels_bchw
    difference_bchw = seen_bchw - pixels_bchw
    rare_b1hw = rarity(pixels_bchw)
    weight_b1hw = edge_weight(pixels_bchw) * rare_b1hw
    total = (weight_b1hw * (difference_bchw.abs() + difference_bchw.square())).mean()
    flat = len(crops.palettes_fk3)
    seen_fhw3 = seen_bchw[:flat].permute(0, 2, 3, 1)
    distances_fkhw = torch.stack(
        [(seen_fhw3 - colour_f3[:, None, None]).square().sum(-1) for colour_f3 in crops.palettes_fk3.unbind(1)], 1
    )
    logits_fkhw = (-distances_fkhw / COLOUR_WIDTH).masked_fill(~crops.used_fk[:, :, None, None], -1e4)
    wrong_fhw = F.cross_entropy(logits_fkhw, crops.places_fhw, reduction="none")
    return total + COLOUR_WEIGHT * (wrong_fhw * rare_b1hw[:flat, 0]).mean(), difference_bchw.detach().abs().mean()


def edge_weight(pixels_bchw: Tensor) -> Tensor:
    """(b, 1, h, w) weights from 1 on flat ground to 1 + `EDGE_WEIGHT` where colours differ most within 5 x 5 pixels.

    Walls and doors are 3 pixels wide in a mostly flat image and hardly change the plain mean.
    """
    spread = F.max_pool2d(pixels_bchw, 5, 1, 2) + F.max_pool2d(-pixels_bchw, 5, 1, 2)
    return 1 + EDGE_WEIGHT * spread.amax(1, keepdim=True).clamp(max=1)


def rarity(pixels_bchw: Tensor) -> Tensor:
    """(b, 1, h, w) weights with a mean near 1, larger for colours that cover a small part of the image.

    A door is 39 brown pixels in a grey wall. With edge weights only, doors were still decoded as wall after 3,600 steps.
    """
    sixteenths = ((pixels_bchw + 1) * 7.96875 + 1e-3).long()  # of 256, rounded down
    codes_bp = (sixteenths[:, 0] << 8 | sixteenths[:, 1] << 4 | sixteenths[:, 2]).flatten(1)
    counts = torch.zeros(len(codes_bp), 1 << 12, device=codes_bp.device)
    counts.scatter_add_(1, codes_bp, torch.ones_like(codes_bp, dtype=counts.dtype))
    rare_bp = counts.gather(1, codes_bp).rsqrt()
    return (rare_bp / rare_bp.mean(1, keepdim=True)).clamp(max=RAREST).view_as(pixels_bchw[:, :1])


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """(b, h, w, 3) uint8 to (b, 3, h, w) float32 in [-1, 1]."""
    return signed(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))


@torch.no_grad()
def normalise(vae: Any, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise each latent channel by the weights of the 1x1 convolutions; returns the old mean and deviation, (c,) each."""
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pixels_bchw.split(8)])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(shift)
    vae.quant_conv.bias[:channels] -= shift
    vae.quant_conv.weight[:channels] /= scale[:, None, None, None]
    vae.quant_conv.bias[:channels] /= scale
    vae.quant_conv.bias[channels:] -= 2 * scale.log()
    vae.post_quant_conv.bias += F.conv2d(shift[None, :, None, None], vae.post_quant_conv.weight)[0, :, 0, 0]
    vae.post_quant_conv.weight *= scale[None, :, None, None]
    return shift, scale
