"""Train a vision tower for the denoiser's text encoder, to compare text and image offline.

In: a model's text encoder, images, their windows of text. Out: a `CLIPModel`. Loss: symmetric cross-entropy over a batch
(Radford et al. 2021, figure 3) with the text side frozen (Zhai et al. 2022), because the denoiser depends on its embeddings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from loraloom.utils.rng import derive_seed
from recipes.mini.autoencoder import to_pixels
from recipes.mini.fitting import Fit, Job, fit
from recipes.mini.layout import TEXT_WIDTH

SIZE_PX, PATCH_PX = 128, 16
BATCH = 64
READ_BATCH = 256
_CHANNELS = [0.5, 0.5, 0.5]
PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor",
    "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": SIZE_PX}, "resample": Image.Resampling.BOX.value,
    "do_center_crop": True, "crop_size": {"height": SIZE_PX, "width": SIZE_PX}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": _CHANNELS, "image_std": _CHANNELS,
}  # fmt: skip
"""Settings of `transformers.CLIPProcessor` that give the same pixels as `halved` and `to_pixels` in training."""


def make_clip(text_encoder: Any) -> Any:
    """A CLIP model of a text encoder (copied and frozen) and a new vision tower."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={name: value for name, value in text_encoder.config.to_dict().items() if name != "_name_or_path"},
        vision_config={
            "hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": SIZE_PX, "patch_size": PATCH_PX, "projection_dim": TEXT_WIDTH,
        },
        projection_dim=TEXT_WIDTH,
    )  # fmt: skip
    clip = CLIPModel(config)
    clip.text_model.load_state_dict(text_encoder.state_dict())
    clip.text_model.requires_grad_(False)
    return clip


def fit_contrast(
    clip: Any,
    images: NDArray[np.uint8],
    windows: Sequence[Sequence[Sequence[int]]],
    steps: int,
    job: Job,
) -> bool:
    """Train the vision tower and both projections, or continue; returns whether all steps are done.

    Args:
        clip: Model from `make_clip`; trained in place.
        images: (n, 128, 128, 3) uint8 images.
        windows: Token ids of each window of each image's text, 77 each.
        steps: Number of optimizer steps.
        job: State file and device.
    """
    device = job.device
    clip.to(device).train()
    first = np.cumsum([0, *(len(own) for own in windows)])
    states_nd = _read_all(clip, [ids for own in windows for ids in own], device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(derive_seed("contrast", step))
        chosen = rng.choice(len(images), size=min(BATCH, len(images)), replace=False)
        told = [int(rng.integers(first[index], first[index + 1])) for index in chosen]
        scores = _scores(clip, to_pixels(images[chosen]).to(device), states_nd[told])
        right = torch.arange(len(chosen), device=device)
        total = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
        return total, {"found_of_batch": float((scores.argmax(0) == right).float().mean())}

    done = fit(clip, loss, Fit(steps, 4e-3, weight_decay=0.05, muon=True), job)
    clip.eval()
    return done


def compare(clip: Any, pixels_bchw: Tensor, ids_bk: Tensor) -> Tensor:
    """(images, texts) scaled cosine similarities."""
    with torch.no_grad():
        states_bd = clip.text_model(ids_bk).pooler_output
    return _scores(clip, pixels_bchw, states_bd)


def _scores(clip: Any, pixels_bchw: Tensor, states_bd: Tensor) -> Tensor:
    seen = clip.visual_projection(clip.vision_model(pixels_bchw).pooler_output)
    told = clip.text_projection(states_bd)
    return clip.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(told, dim=-1).T


@torch.no_grad()
def _read_all(clip: Any, windows: Sequence[Sequence[int]], device: str) -> Tensor:
    """(n, d) pooled embeddings; each window is encoded once, because the text encoder is frozen."""
    parts = [
        clip.text_model(torch.tensor(windows[first : first + READ_BATCH], device=device)).pooler_output
        for first in range(0, len(windows), READ_BATCH)
    ]
    return torch.cat(parts)


def halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 256, 256, 3) to (n, 128, 128, 3): the mean of each 2x2 block."""
    n, height, width, _ = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, 3).mean((2, 4)).round().astype(np.uint8)
