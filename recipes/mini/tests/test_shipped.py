"""The base that ships: it opens like any model, is small, and draws what its texts ask rather than anything."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel, CLIPProcessor

import loraloom
from loraloom.config.generate import GenerateConfig
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.verify.metrics import METRICS
from loraloom.generate.session import open_session
from loraloom.protocols.model import ModelSource
from loraloom.utils.rng import derive_seed
from recipes.mini.bank import windows_of
from recipes.mini.contrast import compare

MINI = Path(loraloom.__file__).parent / "assets" / "mini"


def test_it_is_small_and_names_no_place_of_the_machine_that_made_it() -> None:
    assert sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file()) < 40e6
    settings = [file.read_text(encoding="utf-8") for file in MINI.rglob("*config.json")]
    # Denoiser, autoencoder, text encoder, tokenizer, scheduler; CLIP, its tokenizer, its images.
    assert len(settings) == 8
    assert not any("_name_or_path" in one for one in settings)


def test_a_plan_resembles_the_true_plan_of_its_own_text_more_than_that_of_another() -> None:
    assert DOMAIN.dataset_generator is not None
    examples = [DOMAIN.dataset_generator.draw(derive_seed("shipped", number) >> 16, "plain") for number in range(6)]
    settings = GenerateConfig(steps=12, guidance_scale=3.0, batch_size=6)
    session = open_session(settings, source=ModelSource(location="builtin:mini"), domain="floorplan")
    drawn = [source_image.image for source_image in session.generate(session.requests([text for _, text in examples]))]

    def iou(shift: int) -> float:
        tally = METRICS[1].start()
        for number, image in enumerate(drawn):
            truth, text = examples[(number + shift) % len(examples)]
            tally.add(image, text, truth)
        return tally.result()["iou_pooled"]

    assert iou(0) > 1.5 * max(iou(shift) for shift in (1, 2, 3))


def test_its_clip_finds_the_text_of_a_plan_among_others() -> None:
    assert DOMAIN.dataset_generator is not None
    examples = [
        DOMAIN.dataset_generator.draw(derive_seed("shipped clip", number) >> 16, "plain") for number in range(10)
    ]
    clip: Any = CLIPModel.from_pretrained(MINI / "clip", torch_dtype=torch.float32).eval()
    processor: Any = CLIPProcessor.from_pretrained(MINI / "clip")
    shown = processor(images=[image for image, _ in examples], return_tensors="pt")
    windows = windows_of(MINI, [text for _, text in examples])
    with torch.inference_mode():
        by_window = compare(clip, shown["pixel_values"], torch.tensor([ids for own in windows for ids, _ in own]))
    scores = torch.stack([own.mean(1) for own in by_window.split([len(own) for own in windows], dim=1)], dim=1)
    assert int((scores.argmax(1) == torch.arange(10)).sum()) >= 8
