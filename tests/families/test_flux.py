"""FLUX.1: names that other programs read, the two values of guidance, text length, and schnell, which is not trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom import plugins
from loraloom.config.run import RunConfig
from loraloom.extensions.families.flux.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.lora.files import read_adapter
from loraloom.lora.inject import attach_new
from loraloom.lora.key_formats import to_kohya
from loraloom.lora.layers import LoraLayer
from loraloom.models.loading import open_model
from loraloom.models.reference import reference_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.run import train
from loraloom.utils.errors import UserError


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("flux") / "dev", seed=3)


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("flux") / "schnell", seed=3, schnell=True)


@pytest.fixture(scope="module")
def dataset(draw_dataset: Callable[..., Path]) -> Path:
    return draw_dataset(2, [(32, 32)], size=32, validation_share=0)


def opened(folder: Path, *options: str) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder), options=options))


def run_config(folder: Path, dataset: Path, out: Path, *options: str, strict: bool = False) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"source": str(folder), "options": options},
            "data": {"dataset": str(dataset), "batch_size": 2, "cache_dir": str(out / "cache")},
            "train": {"output": str(out / "run"), "max_steps": 1, "validation_every": 0, "strict": strict},
            "checkpoints": {"every": 0},
            "samples": {"enabled": False},
            "export": {"verify": False, "dtype": "fp32"},
            "lora": {"rank": 2},
        }
    )


def test_the_kohya_export_of_the_full_size_is_what_diffusers_converts() -> None:
    """diffusers reads kohya's FLUX files at their full width only; here one block of each kind, without the model's weights."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    card = plugins.load_card("flux")
    assert card is not None
    small = {**card.configs["transformer/config.json"], "num_layers": 1, "num_single_layers": 1}
    card = replace(card, configs={**card.configs, "transformer/config.json": small})
    generator = torch.Generator().manual_seed(0)
    with reference_model("flux", card) as model:
        shapes = {
            name: module.weight.shape
            for name, module in model.modules.skeleton("denoiser").named_modules()
            if isinstance(module, torch.nn.Linear) and "blocks" in name
        }
        layers = [
            LoraLayer(
                part="denoiser",
                module=name,
                down=torch.randn(2, columns, generator=generator),
                up=torch.randn(rows, 2, generator=generator),
                alpha=2.0,
            )
            for name, (rows, columns) in shapes.items()
        ]
        tensors = to_kohya(model, layers, torch.float32)
    assert any("single_blocks_0_linear1" in key for key in tensors)
    converted: Any = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    assert {key.rsplit(".lora_", 1)[0] for key in converted} == {f"transformer.{layer.module}" for layer in layers}
    for layer in layers:
        stem = f"transformer.{layer.module}"
        probe = torch.randn(layer.down.shape[1], generator=generator)  # the whole matrices would take a minute
        change = converted[f"{stem}.lora_B.weight"] @ (converted[f"{stem}.lora_A.weight"] @ probe)
        torch.testing.assert_close(change, layer.up @ (layer.down @ probe), atol=1e-3, rtol=1e-4)


def test_training_gives_the_guidance_of_the_option_and_generation_the_users(dev: Path) -> None:
    for options, value in (((), 1.0), (("training_guidance=3.5",), 3.5)):
        model = opened(dev, *options)
        text = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext")).encode(["a"])
        place = ImageGeometry(original=(32, 32), crop=(0, 0), target=(32, 32))
        assert model.condition(text, [place], None)["guidance"].tolist() == [value]
        assert model.condition(text, [place], 5.0)["guidance"].tolist() == [5.0]


def test_the_shift_is_that_of_packed_tokens(dev: Path) -> None:
    """sd-scripts' `get_lin_function`: mu is 0.5 at 256 packed tokens and 1.15 at 4096; 256 px are 256 tokens of 16 px."""
    schedule = opened(dev).info.schedule
    assert schedule.shift is not None
    for side, mu in ((256, 0.5), (1024, 1.15)):
        assert schedule.shift(side, side) == pytest.approx(float(torch.tensor(mu).exp()), rel=1e-6)


def latents_of(model: DiffusionModel, guidance: float, negative: str) -> tuple[Tensor, Tensor]:
    """Ours, and the pipeline's."""
    wanted = ImageRequest(
        prompt="a red house", negative_prompt=negative, seed=5, num_steps=2, guidance_scale=guidance, sampler="euler",
        width=32, height=48,
    )  # fmt: skip
    noise = first_noise(model, wanted)
    encode = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext")).encode
    return denoise(model, encode, [wanted], noise_bchw=noise), model.reference_latents(None, wanted, noise)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_schnell_has_no_guidance_but_takes_a_negative_prompt_as_the_pipeline_does(
    guidance: float, schnell: Path
) -> None:
    model = opened(schnell)
    assert (model.info.guidance, model.info.defaults.num_steps, model.info.defaults.guidance_scale) == ("cfg", 4, 1.0)
    torch.testing.assert_close(*latents_of(model, guidance, "blurred"), atol=2e-4, rtol=1e-4)


def test_schnell_reads_256_tokens_and_dev_512_unless_the_option_says_otherwise(dev: Path, schnell: Path) -> None:
    for folder, options, wanted in ((dev, (), 512), (schnell, (), 256), (dev, ("t5_tokens=64",), 64)):
        counted = {one.name: one.capacity for one in opened(folder, *options).text.counts("a")}
        assert counted == {"CLIP": 75, "T5": wanted - 1}
    torch.testing.assert_close(*latents_of(opened(dev, "t5_tokens=64"), 3.5, ""), atol=2e-4, rtol=1e-4)


def test_training_on_schnell_is_refused_with_the_remedy(schnell: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distilled to four steps(.|\n)*train on FLUX.1 dev") as error:
        train(run_config(schnell, dataset, tmp_path), say=lambda line: None)
    assert "train_distilled=true" in str(error.value)
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_training_on_schnell_by_the_option_is_said_once_and_is_an_error_with_strict(
    schnell: Path, dataset: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    train(run_config(schnell, dataset, tmp_path, "train_distilled=true"), say=lines.append)
    assert sum(line.startswith("warning: schnell was distilled") for line in lines) == 1
    with pytest.raises(UserError, match="lose sharpness"):
        train(run_config(schnell, dataset, tmp_path / "s", "train_distilled=true", strict=True), say=lines.append)


def test_the_text_length_of_training_is_in_the_adapter(dev: Path, dataset: Path, tmp_path: Path) -> None:
    train(run_config(dev, dataset, tmp_path, "t5_tokens=64"), say=lambda line: None)
    record = read_adapter(tmp_path / "run" / "adapter.safetensors").record
    assert "t5_tokens=64" in json.dumps(record)


def test_a_denoiser_that_takes_an_image_is_refused(dev: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(dev, tmp_path / "fill")
    config = json.loads((copy / "transformer" / "config.json").read_text(encoding="utf-8"))
    (copy / "transformer" / "config.json").write_text(
        json.dumps({**config, "in_channels": 96, "out_channels": 16}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="Fill"):
        opened(copy)


def test_a_lora_on_a_layer_whose_halves_are_swapped_elsewhere_is_refused(dev: Path) -> None:
    from loraloom.config.run import LoraConfig

    with pytest.raises(UserError, match="halves"):
        attach_new(opened(dev), LoraConfig(rank=2, target=r"norm_out\.linear"), seed=0)


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_a_run_in_low_bits_learns_and_its_exports_are_good(kind: str, dev: Path, dataset: Path, tmp_path: Path) -> None:
    """The exports are compared on the full weights: the adapter is what was trained, not the rounded base."""
    config = run_config(dev, dataset, tmp_path)
    tree = config.model_dump()
    tree["train"] |= {"low_bits": kind, "mixed_precision": "bf16", "gradient_checkpointing": True, "max_steps": 2}
    tree["export"] |= {"verify": True}
    tree["optim"] |= {"learning_rate": 1e-2}
    lines: list[str] = []
    train(RunConfig.model_validate(tree), say=lines.append)
    assert sum(line.startswith(f"low bits: 20 layers are stored as {kind}") for line in lines) == 1, lines
    assert sum("good, largest difference" in line for line in lines) == 2, lines


def test_low_bits_are_refused_where_nothing_is_frozen_and_where_the_denoiser_is_compiled(
    dev: Path, dataset: Path, tmp_path: Path
) -> None:
    tree = run_config(dev, dataset, tmp_path).model_dump()
    for other in ({"method": "full"}, {"compile": True}):
        with pytest.raises(ValueError, match="low_bits"):
            RunConfig.model_validate({**tree, "lora": {}, "train": {**tree["train"], "low_bits": "nf4", **other}})
