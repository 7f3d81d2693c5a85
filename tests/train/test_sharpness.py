"""On a distilled base a run says how sharp few-step images are with what it learned, against the base."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from loraloom import plugins
from loraloom.config.run import RunConfig
from loraloom.extensions.families.flux.tiny import build_tiny
from loraloom.generate.images import generate
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.train import sharpness
from loraloom.train.run import train
from loraloom.train.sharpness import gradient_energy


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("flux") / "schnell", seed=3, schnell=True)


@pytest.fixture(scope="module")
def dataset(draw_dataset: Callable[..., Path]) -> Path:
    return draw_dataset(2, [(32, 32)], size=32, validation_share=0)


def config(model: Path, dataset: Path, out: Path, **train_settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"source": str(model), "options": ("train_distilled=true", "t5_tokens=16")},
            "data": {"dataset": str(dataset), "batch_size": 2, "cache_dir": str(out / "cache")},
            "train": {"output": str(out / "run"), "max_steps": 2, "validation_every": 0, **train_settings},
            "optim": {"learning_rate": 0.05, "warmup_steps": 0},
            "checkpoints": {"every": 0},
            "samples": {"enabled": False},
            "export": {"verify": False, "dtype": "fp32"},
            "lora": {} if train_settings.get("method") == "full" else {"rank": 2},
        }
    )


def noise(sharp: bool) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return image if sharp else image.filter(ImageFilter.GaussianBlur(2))


def test_gradient_energy_is_that_of_the_definition_and_falls_with_blur() -> None:
    square = Image.fromarray(np.array([[0, 255], [0, 255]], dtype=np.uint8))
    assert gradient_energy(square) == pytest.approx(0.5)  # two edges across of 1, two down of 0
    assert gradient_energy(Image.new("RGB", (8, 8), "red")) == 0
    assert gradient_energy(noise(sharp=False)) < 0.2 * gradient_energy(noise(sharp=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_on_a_distilled_base_compares_its_images_with_the_bases(
    method: str, schnell: Path, dataset: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    train(config(schnell, dataset, tmp_path, method=method), say=lines.append)
    place = tmp_path / "run" / "sharpness"
    found: Mapping[str, Any] = json.loads((place / "sharpness.json").read_text(encoding="utf-8"))
    assert found["num_steps"] == 4
    model = open_model(ModelSource(location=str(schnell), options=("t5_tokens=16",)))
    requests = [
        ImageRequest(
            prompt=caption, negative_prompt="", seed=seed, num_steps=4, guidance_scale=1.0, sampler="euler", width=32,
            height=32,
        )
        for seed, caption in enumerate(found["captions"])
    ]  # fmt: skip
    encoder = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))
    wanted = [gradient_energy(one.image) for one in generate(model, encoder.encode, requests)]
    assert found["base"] == pytest.approx(wanted, rel=1e-3)
    assert found["trained"] != pytest.approx(found["base"], rel=1e-3)
    assert found["ratios"] == pytest.approx([a / b for a, b in zip(found["trained"], found["base"], strict=True)])
    for name, energies in (("base", found["base"]), ("trained", found["trained"])):
        for seed, energy in enumerate(energies):
            assert gradient_energy(Image.open(place / f"{name}_{seed}.png")) == pytest.approx(energy)
    assert sum("of the base's (median" in line for line in lines) == 1
    events = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8")
    assert '"sharpness"' in events


def test_a_base_that_was_not_distilled_is_not_measured(dataset: Path, tmp_path: Path) -> None:
    dev = build_tiny(tmp_path / "dev", seed=3)
    train(config(dev, dataset, tmp_path), say=lambda line: None)
    assert not (tmp_path / "run" / "sharpness").exists()


def test_softer_images_are_a_warning_and_a_failed_measurement_costs_nothing(
    schnell: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def drawn(run: Any, requests: Any) -> list[Image.Image]:
        calls.append(True)
        return [noise(sharp=len(calls) == 2)] * len(requests)

    lines: list[str] = []
    monkeypatch.setattr(sharpness, "_images", drawn)
    train(config(schnell, dataset, tmp_path / "soft"), say=lines.append)
    assert any("few-step images have become softer: schnell was distilled" in line for line in lines)

    def fails(run: Any, requests: Any) -> list[Image.Image]:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(sharpness, "_images", fails)
    train(config(schnell, dataset, tmp_path / "failed"), say=lines.append)
    assert any("was not measured (RuntimeError: out of luck)" in line for line in lines)
    assert (tmp_path / "failed" / "run" / "adapter.safetensors").is_file()
