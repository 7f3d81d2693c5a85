"""The tools with the key formats of other families: several text encoders, fused layers, layers that cannot carry LoRA."""

from pathlib import Path
from typing import Any

import pytest
import torch

from loraloom import plugins
from loraloom.lora.extracting import extract
from loraloom.lora.fates import check_file
from loraloom.lora.inject import base_layers
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import Place, RankLimit, difference
from loraloom.lora.names import base_modules
from loraloom.lora.tool_input import read_input
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

from .foreign import random
from .test_tools import saved

FAMILIES = ("hunyuan_dit", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plugins.load("families", request.param).build_tiny(tmp_path_factory.mktemp("model") / request.param, seed=0)


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plugins.load("families", "hunyuan_dit").build_tiny(tmp_path_factory.mktemp("model") / "hunyuan", seed=0)


def opened(folder: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder)))


def layers_of(model: DiffusionModel, *, denoiser_only: bool = False) -> dict[Place, LoraLayer]:
    """Attention layers of each part, of several ranks."""
    found: dict[Place, LoraLayer] = {}
    for part in model.info.parts:
        if not part.lora_targets or (denoiser_only and part.role != "denoiser"):
            continue
        names = [
            name
            for name in base_modules(model.modules.skeleton(part.name))
            if name.endswith(("to_q", "to_k", "q_proj", "query"))
        ]
        for number, name in enumerate(name for name in names if not part.why_excluded(name)):
            layer: Any = dict(base_layers(model.modules.skeleton(part.name)))[name]
            rank = 2 + number % 3
            down, up = (
                random(rank, layer.weight.shape[1], seed=number),
                random(layer.weight.shape[0], rank, seed=number + 99),
            )
            found[part.name, name] = LoraLayer(part=part.name, module=name, down=down, up=up, alpha=1.5)
    return found


def test_layers_of_every_part_are_the_same_in_every_key_format(folder: Path, tmp_path: Path) -> None:
    model = opened(folder)
    layers = layers_of(model)
    assert len({part for part, _ in layers}) > 1
    assert len({layer.rank for layer in layers.values()}) == 3
    for key_format in ("kohya", "diffusers"):
        path = saved(layers, tmp_path / f"{key_format}.safetensors", [], model, key_format=key_format)
        assert difference(layers, read_input(path, model).layers) < 1e-6
        assert check_file(path, model).error is None
    one = read_input(tmp_path / "kohya.safetensors", model)
    again = saved(one.layers, tmp_path / "again.safetensors", [one], model, key_format="diffusers")
    assert difference(layers, read_input(again, model).layers) < 1e-6


def test_the_layout_of_the_original_code_holds_the_denoiser(hunyuan: Path, tmp_path: Path) -> None:
    model = opened(hunyuan)
    layers = layers_of(model, denoiser_only=True)
    out = saved(layers, tmp_path / "native", [], model, key_format="native")
    assert sorted(file.name for file in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert difference(layers, read_input(out, model).layers) < 1e-6
    checked = check_file(out, model)
    assert checked.error is None
    assert all(fate.used or "cannot carry LoRA" in fate.why for fate in checked.fates)
    with pytest.raises(UserError, match="holds the denoiser only"):
        saved(layers_of(model), tmp_path / "both", [], model, key_format="native")
    assert not (tmp_path / "both").exists()


def test_a_family_without_a_layout_of_its_own_code_says_so(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    with pytest.raises(UserError, match="no native key format"):
        saved(layers_of(model), tmp_path / "x", [], model, key_format="native")
    assert not (tmp_path / "x").exists()


def test_a_layer_that_cannot_carry_lora_is_counted_not_extracted(hunyuan: Path, tmp_path: Path) -> None:
    tuned = opened(hunyuan)
    part = tuned.info.denoiser
    layers: dict[str, Any] = dict(base_layers(tuned.modules.get(part.name)))
    barred = next(name for name in layers if part.why_excluded(name))
    allowed = next(name for name in layers if name.endswith("to_q"))
    for name in (barred, allowed):
        layers[name].weight.data += torch.ones_like(layers[name].weight)
    tuned.save(tmp_path / "tuned", "fp32")
    found = extract(opened(hunyuan), opened(tmp_path / "tuned"), RankLimit(error=1e-3))
    assert [one.layer.module for one in found.layers] == [allowed]
    assert found.not_held == [f"{part.name}: {barred}.weight"]
    path = saved({one.place: one.layer for one in found.layers}, tmp_path / "x.safetensors", [], opened(hunyuan))
    assert read_input(path, opened(hunyuan)).layers.keys() == {(part.name, allowed)}
