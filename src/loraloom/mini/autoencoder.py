"""Fit the autoencoder on drawn pictures, then give its latents zero mean and unit variance.

In: RGB pictures. Out: an `AutoencoderKL`. Loss: L1 + mean square on crops of 128 pixels, edges and rare colours weighted,
and a hair of KL; no perceptual or adversarial term, for flat colours need none. Normalised per channel by folding shift
and scale into the two 1x1 convolutions, so that scaling_factor is 1 and every channel gets the same noise.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loraloom.mini.fitting import Fit, Job, fit
from loraloom.randomness import derive_seed

CROP_PX = 128
BATCH = 8
KL_WEIGHT = 1e-6
EDGE_WEIGHT = 4.0
RAREST = 8.0
LATENT_NOISE = 0.3
"""At most; a denoiser of this size leaves errors of 0.1 to 0.2 where there are walls and doors (decision 0011)."""


def fit_autoencoder(vae: Any, pictures: NDArray[np.uint8], steps: int, job: Job, *, decoder_only: bool = False) -> bool:
    """Train, or go on; returns whether all steps are done.

    Args:
        vae: From `make_autoencoder`.
        pictures: (n, 256, 256, 3) uint8, any array that can be indexed.
        steps: Optimizer steps.
        job: State and device.
        decoder_only: The encoder stays, so that latents made with it stay good; the decoder learns to bear the small
            errors of a denoiser, too: noise of a deviation up to `LATENT_NOISE`, another for each crop, is added to latents of
            deviation 1.
    """
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    device = job.device
    # On a CPU channels_last made a step 5 times slower with so few channels (two cores of an AMD EPYC, torch 2.15).
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    vae.to(device=device, memory_format=layout).train()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        crops = _crops(pictures, step)
        pixels_bchw = to_pixels(crops).to(device=device, memory_format=layout)
        torch.manual_seed(derive_seed("autoencoder", step))
        posterior = vae.encode(pixels_bchw).latent_dist
        latents_bchw = posterior.sample()
        if decoder_only:
            deviation_b111 = LATENT_NOISE * torch.rand(len(latents_bchw), 1, 1, 1, device=device)
            latents_bchw = latents_bchw + deviation_b111 * torch.randn_like(latents_bchw)
        seen_bchw = vae.decode(latents_bchw).sample
        difference = seen_bchw - pixels_bchw
        weight = edge_weight(pixels_bchw) * torch.from_numpy(rarity(crops)).to(device)
        total = (weight * (difference.abs() + difference.square())).mean() + KL_WEIGHT * posterior.kl().mean()
        return total, {"mean_error_of_255": float(difference.detach().abs().mean()) * 127.5}

    done = fit(vae, loss, Fit(steps, 2e-3, weight_decay=1e-4), job)
    vae.eval()
    return done


def edge_weight(pixels_bchw: Tensor) -> Tensor:
    """(b, 1, h, w) from 1 on flat ground to 1 + `EDGE_WEIGHT` where colours differ widely within 5 x 5 pixels.

    Walls and doors are 3 pixels wide in a picture that is mostly flat: the plain mean hardly sees them.
    """
    spread = F.max_pool2d(pixels_bchw, 5, 1, 2) + F.max_pool2d(-pixels_bchw, 5, 1, 2)
    return 1 + EDGE_WEIGHT * spread.amax(1, keepdim=True).clamp(max=1)


def rarity(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(b, h, w, 3) to (b, 1, h, w) weights of mean near 1, larger where a picture's colour covers little of it.

    A door is 39 brown pixels in a grey wall. With edges weighted alone, doors still came out as wall after 3,600 steps.
    """
    weights = np.empty((*pictures.shape[:3],), np.float32)
    for picture, weight in zip(pictures, weights, strict=True):
        red, green, blue = np.moveaxis(picture.astype(np.int32) >> 4, -1, 0)
        colours = (red << 8 | green << 4 | blue).ravel()
        rare = 1 / np.sqrt(np.bincount(colours, minlength=1 << 12).clip(1))[colours]
        weight.ravel()[:] = (rare / rare.mean()).clip(0, RAREST)
    return weights[:, None]


def _crops(pictures: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """(b, 128, 128, 3), turned and mirrored at random."""
    chance = np.random.default_rng(derive_seed("autoencoder crops", step))
    crops: list[NDArray[np.uint8]] = []
    for index in chance.integers(len(pictures), size=BATCH):
        top, left = chance.integers(0, pictures.shape[1] - CROP_PX + 1, 2)
        crop = pictures[index, top : top + CROP_PX, left : left + CROP_PX]
        crop = np.rot90(crop, int(chance.integers(4)))
        crops.append(crop[:, ::-1] if chance.integers(2) else crop)
    return np.stack(crops)


def to_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """(b, h, w, 3) uint8 to (b, 3, h, w) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


@torch.inference_mode()
def normalise(vae: Any, pictures: NDArray[np.uint8], device: str) -> tuple[Tensor, Tensor]:
    """Fold the mean and deviation of each latent channel into the 1x1 convolutions; returns what they were, (c,) each."""
    means = torch.cat([vae.encode(to_pixels(part[None]).to(device)).latent_dist.mean for part in pictures])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(shift)
    vae.quant_conv.bias[:channels] -= shift
    vae.quant_conv.weight[:channels] /= scale[:, None, None, None]
    vae.quant_conv.bias[:channels] /= scale
    vae.quant_conv.bias[channels:] -= 2 * scale.log()
    vae.post_quant_conv.bias += F.conv2d(shift[None, :, None, None], vae.post_quant_conv.weight)[0, :, 0, 0]
    vae.post_quant_conv.weight *= scale[None, :, None, None]
    return shift, scale
