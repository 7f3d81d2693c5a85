"""Sharpness of few-step images of a distilled base, without and with what a run learned.

In: a finished run on a base that was distilled to few steps. Out: `sharpness/` in the run folder, with images of the same
captions and seeds of both and `sharpness.json`; one line, and a warning where images have become softer. Training with single
noise levels unlearns the few steps of the distillation, and few-step images show it first.

Sharpness is the gradient energy of brightness: the mean square of the differences of neighbouring pixels. It also changes with
what an image shows, so that one caption says little; the images are kept.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from loraloom.data.sizes import common_size
from loraloom.generate.images import generate
from loraloom.generate.sheet import contact_sheet
from loraloom.lora.inject import lora_layers
from loraloom.protocols.generation import ImageRequest
from loraloom.train.sharding import shared_out
from loraloom.train.state import Run
from loraloom.utils.atomic_files import write_json
from loraloom.utils.image_files import write_png
from loraloom.utils.reporting import log

FOLDER = "sharpness"
NUM_IMAGES = 6
SOFTER = 0.9
"""Median ratio to the base below which a warning is given."""


def gradient_energy(image: Image.Image) -> float:
    """Mean square of the differences of neighbouring pixels' brightness, right and below; 0 to 1 for brightness of 0 to 1."""
    rows = np.asarray(image.convert("L"), dtype=np.float64) / 255
    across, down = np.diff(rows, axis=1) ** 2, np.diff(rows, axis=0) ** 2
    return float((across.sum() + down.sum()) / max(1, across.size + down.size))


def measure_sharpness(run: Run, step: int) -> None:
    """Measure a distilled base with and without what was learned; other bases are left alone. Never raises: it is a report."""
    info = run.train_state.model.info
    if info.distilled is None:
        return
    if shared_out(run):
        log.info("note: the sharpness of few-step images is not measured: the weights are split over the ranks")
        return
    try:
        found = _measure(run, step)
    except Exception as error:  # a report that fails must not cost the adapter
        log.warning(f"the sharpness of few-step images was not measured ({type(error).__name__}: {error})")
        return
    ratio, lowest, highest = found["median"], min(found["ratios"]), max(found["ratios"])
    log.info(
        f"sharpness of {len(found['ratios'])} images of {info.defaults.num_steps} steps, same captions and seeds: gradient "
        f"energy {ratio:.2f} of the base's (median; {lowest:.2f} to {highest:.2f}); images in {run.folder / FOLDER}"
    )
    if ratio < SOFTER:
        log.warning(
            f"few-step images have become softer: {info.distilled}; compare the images, train fewer steps, or train on the "
            "base that was not distilled"
        )
    run.tracker.event("sharpness", step, median=ratio, lowest=lowest, highest=highest)


def requests_of(run: Run) -> list[ImageRequest]:
    """The first captions that differ, at the base's own number of steps, on the most frequent size."""
    examples = run.train_state.batches.examples
    captions = list(dict.fromkeys(example.caption for example in examples))
    width, height = common_size(examples)
    defaults = run.train_state.model.info.defaults
    return [
        ImageRequest(
            prompt=captions[number % len(captions)],
            negative_prompt="",
            seed=number,
            num_steps=defaults.num_steps,
            guidance_scale=defaults.guidance_scale,
            sampler=defaults.sampler,
            width=width,
            height=height,
        )
        for number in range(NUM_IMAGES)
    ]


def _measure(run: Run, step: int) -> dict[str, Any]:
    requests = requests_of(run)
    with _ready(run):
        trained = _images(run, requests)
        with _without(run):
            base = _images(run, requests)
    folder = run.folder / FOLDER
    for name, images in (("base", base), ("trained", trained)):
        for request, image in zip(requests, images, strict=True):
            write_png(folder / f"{name}_{request.seed}.png", image)
    sheet = contact_sheet(
        [list(pair) for pair in zip(base, trained, strict=True)],
        [one.prompt for one in requests],
        ["base", f"step {step}"],
    )
    write_png(folder / "sheet.png", sheet)
    energies = [[gradient_energy(image) for image in images] for images in (base, trained)]
    ratios = [after / before if before else float("inf") for before, after in zip(*energies, strict=True)]
    found: dict[str, Any] = {
        "step": step,
        "num_steps": requests[0].num_steps,
        "captions": [one.prompt for one in requests],
        "base": energies[0],
        "trained": energies[1],
        "ratios": ratios,
        "median": statistics.median(ratios),
    }
    write_json(folder / "sharpness.json", found)
    return found


def _images(run: Run, requests: Sequence[ImageRequest]) -> list[Image.Image]:
    state = run.train_state

    def encode(prompts: Sequence[str]) -> Any:
        with torch.inference_mode():
            return state.batches.texts.states(prompts)

    images = generate(state.model, encode, [replace(one) for one in requests], autocast=state.runtime.autocast)
    return [one.image for one in images]


@contextmanager
def _ready(run: Run) -> Iterator[None]:
    """The VAE placed and the parts that learn in evaluation mode, as samples require it."""
    state = run.train_state
    modules, vae = state.model.modules, state.model.info.vae.name
    training = [part for part in state.adapter.modules if modules.get(part).training]
    try:
        modules.place(vae, state.runtime.device, torch.float32)
        for part in training:
            modules.get(part).eval()
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part in training:
            modules.get(part).train()
        modules.drop(vae)


@contextmanager
def _without(run: Run) -> Iterator[None]:
    """The base alone: LoRA layers switched off, or weights that were trained as a whole read again from the base's files."""
    state = run.train_state
    modules = state.model.modules
    parts = list(state.adapter.modules)
    if run.config.train.method == "full":
        for part in parts:
            modules.drop(part)
            modules.place(part, state.runtime.device, state.runtime.weight_dtype)
        yield
        return
    layers = [layer for part in parts for _, layer in lora_layers(modules.get(part))]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
