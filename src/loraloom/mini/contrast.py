"""A vision tower for the text encoder that the denoiser learned with, so that text and picture can be compared offline.

In: a model's text encoder, pictures, their windows of text. Out: a `CLIPModel`. Loss: symmetric cross-entropy over a batch
(Radford et al. 2021, figure 3) with the text side locked (Zhai et al. 2022): what the denoiser reads must not move.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loraloom.mini.autoencoder import to_pixels
from loraloom.mini.fitting import Fit, Job, fit
from loraloom.mini.layout import TEXT_WIDTH
from loraloom.randomness import derive_seed

SIZE_PX, PATCH_PX = 128, 16
BATCH = 64


def make_clip(text_encoder: Any) -> Any:
    """A CLIP model around a text encoder (its weights are copied and locked) and a fresh vision tower."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config=text_encoder.config.to_dict(),
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
    pictures: NDArray[np.uint8],
    windows: Sequence[Sequence[Sequence[int]]],
    steps: int,
    job: Job,
) -> bool:
    """Train the vision tower and both projections, or go on; returns whether all steps are done.

    Args:
        clip: From `make_clip`.
        pictures: (n, 128, 128, 3) uint8.
        windows: For each picture the token ids of each window of its text, 77 each.
        steps: Optimizer steps.
        job: State and device.
    """
    device = job.device
    clip.to(device).train()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        chance = np.random.default_rng(derive_seed("contrast", step))
        chosen = chance.choice(len(pictures), size=min(BATCH, len(pictures)), replace=False)
        ids = torch.tensor([windows[index][int(chance.integers(len(windows[index])))] for index in chosen])
        scores = compare(clip, to_pixels(pictures[chosen]).to(device), ids.to(device))
        right = torch.arange(len(chosen), device=device)
        total = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
        return total, {"found_of_batch": float((scores.argmax(0) == right).float().mean())}

    done = fit(clip, loss, Fit(steps, 1e-3, weight_decay=0.05), job)
    clip.eval()
    return done


def compare(clip: Any, pixels_bchw: Tensor, ids_bk: Tensor) -> Tensor:
    """(pictures, texts) scaled cosine similarities."""
    seen = clip.visual_projection(clip.vision_model(pixels_bchw).pooler_output)
    with torch.no_grad():
        read = clip.text_model(ids_bk).pooler_output
    told = clip.text_projection(read)
    return clip.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(told, dim=-1).T


def halved(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 256, 256, 3) to (n, 128, 128, 3), the mean of each 2x2."""
    n, height, width, _ = pictures.shape
    return pictures.reshape(n, height // 2, 2, width // 2, 2, 3).mean((2, 4)).round().astype(np.uint8)
