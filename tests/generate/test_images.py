"""An image is its request's alone: not its batch's, not its neighbours'."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from loraloom import plugins
from loraloom.extensions.families._diffusers.schedule import ddpm_schedule, sampling_defaults
from loraloom.generate.images import (
    Contrast,
    StoppedError,
    denoise,
    generate,
    to_images,
)
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

LONG = "The kitchen is left of the bath. " * 5
"""More than two windows of the tiny model's byte tokenizer."""

REQUESTS = [
    ImageRequest(
        prompt="short", negative_prompt="", seed=1, num_steps=3, guidance_scale=4.0, sampler="ddim", width=32, height=32
    ),
    ImageRequest(
        prompt=LONG, negative_prompt="", seed=2, num_steps=3, guidance_scale=4.0, sampler="ddim", width=32, height=32
    ),
    ImageRequest(
        prompt="a plan",
        negative_prompt="blurred",
        seed=3,
        num_steps=3,
        guidance_scale=4.0,
        sampler="ddim",
        width=32,
        height=32,
    ),
    ImageRequest(
        prompt="a house",
        negative_prompt=LONG[:100],
        seed=4,
        num_steps=3,
        guidance_scale=4.0,
        sampler="ddim",
        width=32,
        height=32,
    ),
    ImageRequest(
        prompt="", negative_prompt="", seed=5, num_steps=3, guidance_scale=4.0, sampler="ddim", width=32, height=32
    ),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")


@pytest.fixture(scope="module")
def encoder(model: DiffusionModel) -> PromptEncoder:
    return PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))


def drawn(
    model: DiffusionModel, encoder: PromptEncoder, requests: list[ImageRequest], **more: Any
) -> list[GeneratedImage]:
    with torch.inference_mode():
        return list(generate(model, encoder.encode, requests, **more))


def pixels(image: GeneratedImage) -> np.ndarray:
    return np.asarray(image.image).astype(int)


def unlikeness(one: GeneratedImage, other: GeneratedImage) -> int:
    """Largest difference of a channel, of 255."""
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_a", "unipc", "lcm"])
def test_a_image_does_not_depend_on_its_batch(sampler: str, model: DiffusionModel, encoder: PromptEncoder) -> None:
    assert len(encoder.plan(LONG).windows) > 2
    requests = [replace(request, sampler=sampler) for request in REQUESTS]
    alone = drawn(model, encoder, requests, batch_size=1)
    for batch_size in (2, 3, 5):
        together = drawn(model, encoder, requests, batch_size=batch_size)
        assert [image.index for image in together] == [0, 1, 2, 3, 4]
        assert [image.request for image in together] == requests
        assert max(unlikeness(one, other) for one, other in zip(alone, together, strict=True)) <= 1
    assert min(unlikeness(alone[0], other) for other in alone[1:]) > 1


def test_requests_of_other_settings_get_a_batch_of_their_own_and_keep_their_place(
    model: DiffusionModel, encoder: PromptEncoder
) -> None:
    requests = [
        REQUESTS[0], replace(REQUESTS[0], num_steps=2), replace(REQUESTS[0], width=64), REQUESTS[2],
        replace(REQUESTS[2], sampler="euler_a"), replace(REQUESTS[2], guidance_scale=1.0),
    ]  # fmt: skip
    together = drawn(model, encoder, requests, batch_size=4)
    for image, request in zip(together, requests, strict=True):
        assert image.image.size == (request.width, request.height)
        assert unlikeness(image, drawn(model, encoder, [request])[0]) <= 1


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "lcm"])
def test_the_seed_decides_everything(sampler: str, model: DiffusionModel, encoder: PromptEncoder) -> None:
    request = replace(REQUESTS[0], sampler=sampler)
    torch.manual_seed(1)
    one = drawn(model, encoder, [request])[0]
    torch.manual_seed(2)
    again, other = drawn(model, encoder, [request, replace(request, seed=9)])
    assert unlikeness(one, again) == 0
    assert unlikeness(one, other) > 1


class Counting:
    """A model that notes the batch size of every question to the denoiser."""

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, latents: torch.Tensor, *more: Any) -> torch.Tensor:
        self.sizes.append(latents.shape[0])
        return self._model.predict(latents, *more)


@pytest.mark.parametrize(("guidance", "halves"), [(1.0, 1), (4.0, 2)])
def test_guidance_one_asks_the_denoiser_for_half_as_much(
    guidance: float, halves: int, model: DiffusionModel, encoder: PromptEncoder
) -> None:
    counting: Any = Counting(model)
    asked: list[str] = []

    def encode(prompts: Any) -> list[torch.Tensor]:
        asked.extend(prompts)
        return encoder.encode(prompts)

    denoise(counting, encode, [replace(request, guidance_scale=guidance) for request in REQUESTS[:3]])
    assert counting.sizes == [3 * halves] * 3
    assert ("blurred" in asked) == (halves == 2), "a negative prompt that is not used is not encoded"


def test_guidance_is_the_formula(model: DiffusionModel, encoder: PromptEncoder) -> None:
    request = ImageRequest(
        prompt="a plan",
        negative_prompt="blurred",
        seed=3,
        num_steps=1,
        guidance_scale=4.0,
        sampler="ddim",
        width=32,
        height=32,
    )
    answers: list[torch.Tensor] = []

    class Noting(Counting):
        def predict(self, latents: torch.Tensor, *more: Any) -> torch.Tensor:
            answers.append(super().predict(latents, *more))
            return answers[-1]

    noting: Any = Noting(model)
    got = denoise(noting, encoder.encode, [request])
    without, with_ = answers[0].chunk(2)
    from loraloom.utils.rng import normal

    sampler = model.sampler("ddim", 1, 32, 32)
    expected = sampler.step(
        without + 4.0 * (with_ - without), sampler.timesteps[0], normal((4, 4, 4), 3, "picture")[None], []
    )
    assert torch.allclose(got, expected, atol=1e-6)


def test_a_contrast_adds_what_a_prompt_says_beyond_it(model: DiffusionModel, encoder: PromptEncoder) -> None:
    """With the negative prompt as contrast and guidance 1 it is guidance by another name; with the prompt itself, nothing."""
    requests = [replace(REQUESTS[1], guidance_scale=scale) for scale in (1.0, 3.5)]
    usual, guided = (denoise(model, encoder.encode, [request]) for request in requests)
    by_contrast = denoise(model, encoder.encode, requests[:1], contrast=Contrast([REQUESTS[1].negative_prompt], 2.5))
    torch.testing.assert_close(by_contrast, guided, atol=2e-4, rtol=1e-4)
    assert float((guided - usual).abs().max()) > 0.01
    same = denoise(model, encoder.encode, requests[1:], contrast=Contrast([REQUESTS[1].prompt], 5.0))
    torch.testing.assert_close(same, guided, atol=2e-4, rtol=1e-4)
    other = denoise(model, encoder.encode, requests[1:], contrast=Contrast(["a house"], 5.0))
    assert float((other - guided).abs().max()) > 0.01


def test_a_negative_prompt_changes_the_image(model: DiffusionModel, encoder: PromptEncoder) -> None:
    plain, negative = drawn(model, encoder, [REQUESTS[0], replace(REQUESTS[0], negative_prompt="blurred")])
    assert unlikeness(plain, negative) > 1


@pytest.mark.parametrize(
    ("size", "fix"),
    [((33, 32), "32x32"), ((32, 7), "32x8"), ((0, 0), "8x8"), ((-8, 64), "8x64"), ((100, 100), "96x96")],
)
def test_sizes_that_cannot_be_drawn_are_refused_before_anything_is_drawn(
    size: tuple[int, int], fix: str, model: DiffusionModel, encoder: PromptEncoder
) -> None:
    """A side of 0 was once let through, and ended inside the UNet."""
    wrong = replace(REQUESTS[0], width=size[0], height=size[1])
    with pytest.raises(UserError, match=rf"multiples of 8\n  try {fix}"):
        next(generate(model, encoder.encode, [REQUESTS[0], wrong]))


def test_a_image_of_nan_is_an_error_that_says_what_to_do(model: DiffusionModel) -> None:
    with pytest.raises(UserError, match="the image is NaN: the denoiser overflowed\n  generate in full precision"):
        to_images(model, torch.full((1, 4, 4, 4), float("nan")))


def test_images_cover_the_whole_range(model: DiffusionModel) -> None:
    image = to_images(model, 100 * torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)))[0]
    values = np.asarray(image)
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert values.min() == 0
    assert values.max() == 255


def test_progress_rises_to_the_number_of_denoiser_steps(model: DiffusionModel, encoder: PromptEncoder) -> None:
    seen: list[tuple[int, int]] = []
    drawn(model, encoder, REQUESTS, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (15, 15)
    assert {total for _, total in seen} == {15}


def test_drawing_can_be_broken_off_between_steps(model: DiffusionModel, encoder: PromptEncoder) -> None:
    asked = iter([False, False, False, False, True])
    got: list[GeneratedImage] = []
    with pytest.raises(StoppedError):
        for image in generate(model, encoder.encode, REQUESTS, stop=lambda: next(asked)):
            got.append(image)
    assert len(got) == 1


def test_nothing_to_draw_is_nothing(model: DiffusionModel, encoder: PromptEncoder) -> None:
    assert drawn(model, encoder, []) == []


def test_what_is_left_open_suits_a_model_whose_last_step_is_pure_noise(model: DiffusionModel) -> None:
    usual = model.info.defaults
    assert (usual.sampler, usual.guidance_scale) == ("dpmpp_2m_karras", 7.5)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    no_signal = sampling_defaults(ddpm_schedule(scheduler.alphas_cumprod, "v_prediction"), 64)
    assert (no_signal.sampler, no_signal.guidance_scale) == ("euler_a", 4.0)
