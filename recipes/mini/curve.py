"""The learning curve of a base in training: share of sentences met, at regular numbers of images.

In: a model folder. Out: a line of a JSON Lines file and a line for the user. The loss of held-out images hardly shows
whether images follow their texts; the share of sentences met shows when to stop. Scenes have no verifier and are left out.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loraloom import plugins
from loraloom.config.generate import GenerateConfig
from loraloom.generate.session import open_session
from loraloom.protocols.model import ModelSource
from loraloom.utils.atomic_files import write_text
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import derive_seed

TEXTS = 32
"""Number of texts, with one image each; a difference of 0.03 is noise."""
STEPS = 12
"""Steps of DDIM; as good as twenty on the base (decision 0016)."""


def sentences_met(model: Path) -> float:
    """Share of the sentences of held-out plain texts that the model's images meet, 0 .. 1; always the same texts."""
    domain = plugins.load("domains", "floorplan")
    assert domain.dataset_generator is not None and domain.verifier is not None
    prompts = [
        domain.dataset_generator.draw(derive_seed("learning curve", number) >> 16, "plain")[1]
        for number in range(TEXTS)
    ]
    settings = GenerateConfig(sampler="ddim", steps=STEPS, guidance_scale=3.0, batch_size=8)
    with quiet():
        session = open_session(
            settings, source=ModelSource(location=str(model)), domain="floorplan", say=lambda _: None
        )
    requests = [replace(request, seed=number) for number, request in enumerate(session.requests(prompts))]
    groups = [requests[start : start + settings.batch_size] for start in range(0, TEXTS, settings.batch_size)]
    images = [image.image for group in groups for image in session.generate(group)]
    verdicts = [
        verdict
        for image, prompt in zip(images, prompts, strict=True)
        for verdict in domain.verifier.verify(image, prompt).verdicts
    ]
    return sum(verdict.met is True for verdict in verdicts) / len(verdicts)


def has_point(file: Path, images: int) -> bool:
    """Whether a curve has a point for this number of images."""
    return file.is_file() and any(json.loads(line)["images"] == images for line in file.read_text("utf-8").splitlines())


def add_point(file: Path, model: Path, images: int, say: Callable[[str], None]) -> None:
    """Measure a model after this number of images of a round, and append the point."""
    met = sentences_met(model)
    point = json.dumps({"images": images, "sentences_met": round(met, 4), "texts": TEXTS})
    before = file.read_text("utf-8") if file.is_file() else ""
    write_text(file, before + point + "\n")
    say(f"{images} images: {met:.1%} of the sentences of {TEXTS} plans met ({file})")
