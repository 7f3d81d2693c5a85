"""`mini` before training: a vocabulary and random weights.

In: a folder. Out: a model in diffusers' folder format in it.
"""

from pathlib import Path
from typing import Any

import torch

from loraloom.utils.atomic_files import whole_directory
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import derive_seed
from recipes.mini.data import PLAN_SHARE, draw_plan, draw_scene
from recipes.mini.layout import make_autoencoder, make_denoiser, make_scheduler, make_text_encoder
from recipes.mini.tokenizer import train_tokenizer

NUM_TOKENS = 1500
VOCABULARY_TEXTS = 600
"""Number of texts that the vocabulary is trained on; `PLAN_SHARE` of them are plans, the rest scenes."""


def write_blank(folder: Path) -> None:
    """Write the whole model or nothing; the same on every machine."""
    plans = round(PLAN_SHARE * VOCABULARY_TEXTS)
    texts = [draw_plan(number, 0)[1] for number in range(plans)]
    texts += [text.replace("Plain", "Varied", 1) for text in texts[:20]]
    texts += [draw_scene(number, 0)[1] for number in range(VOCABULARY_TEXTS - plans)]
    with whole_directory(folder) as target, quiet():
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        tokenizer = train_tokenizer(texts, NUM_TOKENS, target / "tokenizer")
        torch.manual_seed(derive_seed("mini", "start"))
        pipeline: Any = StableDiffusionPipeline
        pipeline(
            vae=make_autoencoder(), text_encoder=make_text_encoder(tokenizer), tokenizer=tokenizer, unet=make_denoiser(),
            scheduler=make_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(target)  # fmt: skip
