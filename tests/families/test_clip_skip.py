"""Clip skip: the layer of the text encoder that is read, in training, in generation, in exports and in the cache key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraloom import plugins
from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import LoraConfig, RunConfig
from loraloom.extensions.families.sdxl import FAMILY as SDXL
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.generate.session import Session, open_session
from loraloom.lora.export import first_noise
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.prepare.run import prepare
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.run import train
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_header

DOMAIN = plugins.load("domains", "freetext")
PROMPT = "a plan of two rooms"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("skip") / "model", text_layers=4, seed=6)


def opened(folder: Path, clip_skip: int | None) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder), clip_skip=clip_skip))


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
@torch.inference_mode()
def test_the_layer_that_is_read_is_the_one_of_diffusers_counted_from_one(clip_skip: int, folder: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    kind: type = StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder, local_files_only=True, safety_checker=None)  # pyright: ignore[reportAttributeAccessIssue]
    if not hasattr(pipeline.text_encoder, "text_model"):  # diffusers 0.42 asks for it, transformers 5.6 has dropped it
        pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
    theirs = pipeline.encode_prompt(PROMPT, torch.device("cpu"), 1, False, clip_skip=clip_skip - 1 or None)[0]
    [ours] = PromptEncoder(text=opened(folder, clip_skip).text, domain=DOMAIN).encode([PROMPT])
    torch.testing.assert_close(ours["hidden"], theirs, atol=1e-5, rtol=1e-5)


def test_an_image_equals_diffusers_own_with_the_layer_skipped_for_both_prompts(folder: Path) -> None:
    model = opened(folder, 2)
    request = ImageRequest(
        prompt=PROMPT, negative_prompt="blur", num_steps=3, guidance_scale=4.0, sampler="ddim", width=64, height=64
    )
    noise = first_noise(model, request)
    ours, plain = (
        denoise(each, PromptEncoder(text=each.text, domain=DOMAIN).encode, [request], noise_bchw=noise)
        for each in (model, opened(folder, None))
    )
    torch.testing.assert_close(ours, model.reference_latents(None, request, noise), atol=1e-4, rtol=1e-4)
    assert float((ours - plain).abs().max()) > 1e-4


def test_embeddings_of_another_layer_are_never_taken_from_the_cache(folder: Path) -> None:
    keys = [PromptEncoder(text=opened(folder, skip).text, domain=DOMAIN).cache_key(PROMPT) for skip in (None, 1, 2, 3)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_layers_that_are_skipped_carry_no_lora(folder: Path) -> None:
    model = opened(folder, 3)
    adapter = attach_new(model, LoraConfig(rank=2, text_encoder=True), seed=0)
    for parameter in adapter.parameters.values():
        parameter.data = torch.full_like(parameter.data, 0.05)
    text = PromptEncoder(text=model.text, domain=DOMAIN).encode([PROMPT])
    place = ImageGeometry(original=(64, 64), crop=(0, 0), target=(64, 64))
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    model.predict(noisy, torch.tensor([500.0]), model.condition(text, [place], None)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters.values())
    assert {name.split(".")[-3] for name in adapter.modules["text_encoder"]} == {"0", "1"}


@pytest.mark.parametrize("clip_skip", [0, 5])
def test_a_layer_that_is_not_there_is_refused_with_the_range(clip_skip: int, folder: Path) -> None:
    with pytest.raises(UserError, match=rf"clip_skip: got {clip_skip}, expected a whole number from 1 to 4"):
        opened(folder, clip_skip)


def test_a_family_without_the_choice_refuses_it(tmp_path: Path) -> None:
    """Stable Diffusion XL always reads the layer before the last one: other programs ignore the setting without a word."""
    folder = SDXL.build_tiny(tmp_path / "model")
    for clip_skip in (1, 2):
        with pytest.raises(
            UserError, match=rf"always read at the layer that it was made with: got 'clip_skip {clip_skip}'"
        ):
            opened(folder, clip_skip)


def test_an_adapter_is_used_at_the_layer_that_it_was_trained_at(
    folder: Path, tmp_path: Path, draw_folder: Callable[..., Path]
) -> None:
    """Ours records it; of a file of sd-scripts its metadata says it, and a line says that it is used."""
    source = draw_folder(tmp_path / "source", 2, (64, 64))
    settings = PrepareConfig(size=64, validation_share=0, num_workers=1)
    prepare(source, tmp_path / "dataset", settings, console=lambda text: None)
    tree = {
        "model": {"source": str(folder), "clip_skip": 2},
        "data": {"dataset": str(tmp_path / "dataset"), "batch_size": 2},
        "train": {"output": str(tmp_path / "run"), "max_steps": 1, "validation_every": 0},
        "samples": {"enabled": False},
        "optim": {"learning_rate": 1e-2},
        "export": {"verify": True, "dtype": "fp32"},
    }
    said: list[str] = []
    train(RunConfig.model_validate(tree), say=said.append)
    assert sum("good, largest difference" in line for line in said) == 2, said

    def session(adapter: Path, **values: Any) -> tuple[Session, list[str]]:
        lines: list[str] = []
        return open_session(GenerateConfig(steps=1), adapters=[(adapter, 1.0)], say=lines.append, **values), lines

    own, notes = session(tmp_path / "run")
    assert own.model.info.clip_skip == 2
    assert not notes
    [request] = own.requests([PROMPT])
    assert own.recipe(request).model["clip_skip"] == 2
    assert session(tmp_path / "run", clip_skip=1)[0].model.info.clip_skip == 1
    foreign = tmp_path / "foreign.safetensors"
    exported = read_header(tmp_path / "run" / "exports" / "run.safetensors").metadata
    assert exported["ss_clip_skip"] == "2"
    save_file(load_file(tmp_path / "run" / "exports" / "run.safetensors"), foreign, {"ss_clip_skip": "2"})
    other, notes = session(foreign, source=ModelSource(location=str(folder)))
    assert other.model.info.clip_skip == 2
    assert notes == ["note: foreign was trained with clip skip 2, which is used; --clip-skip overrides it"]
