"""Every layer of an exported Stable Diffusion XL adapter arrives in the program that the file is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraloom.config.run import LoraConfig
from loraloom.extensions.families.sdxl import FAMILY
from loraloom.lora.export import DIFFUSERS_NAME, export_adapter
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.lora.inject import Adapter, attach_new
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

from .test_single_file import renamed
from .test_single_file_sdxl import sdxl_unet_rules

TARGETS = ("cross_attention", "attention", "all_linear", "all_linear_conv")


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILY.build_tiny(tmp_path_factory.mktemp("sdxl") / "model", seed=3)


def trained(
    model: DiffusionModel, target: str, folder: Path, *, text_encoder: bool = True
) -> tuple[Adapter, list[Path]]:
    """LoRA layers with random weights on the UNet and the text encoders, and their exports."""
    adapter = attach_new(model, LoraConfig(rank=3, alpha=2, target=target, text_encoder=text_encoder), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters.values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    save_adapter(folder / "own.safetensors", adapter.state(), {"format": "loraloom.adapter.1", "alpha": 2, "rank": 3})
    layers = read_adapter(folder / "own.safetensors").layers(model)
    return adapter, export_adapter(model, layers, {"rank": 3}, folder / "exports", "x", "fp32")


def changes(modules: Mapping[str, torch.nn.Module]) -> dict[str, Tensor]:
    """Component and module name, as transformers and diffusers have them, to the update of its weight."""
    found: dict[str, Tensor] = {}
    for component, module in modules.items():
        for name, layer in module.named_modules():
            if isinstance(layer, LoraLayer):
                [adapter] = layer.lora_A.keys()
                found[f"{component}.{name}"] = layer.get_delta_weight(adapter)  # pyright: ignore[reportCallIssue]
    return found


@pytest.fixture(scope="module")
def pipeline(tiny_sdxl: Path) -> Any:
    """That of diffusers, without an adapter."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    kind: Any = StableDiffusionXLPipeline
    return kind.from_pretrained(tiny_sdxl, local_files_only=True)


@pytest.mark.parametrize("target", TARGETS)
def test_diffusers_finds_every_layer_of_both_layouts(
    target: str, tiny_sdxl: Path, pipeline: Any, tmp_path: Path
) -> None:
    model = open_model(ModelSource(location=str(tiny_sdxl)))
    adapter, files = trained(model, target, tmp_path)
    ours = changes({model.lora_format.component(part): model.modules.get(part) for part in adapter.modules})
    assert {name.partition(".")[0] for name in ours} == {"unet", "text_encoder", "text_encoder_2"}
    for file in files:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
        theirs = changes({name: getattr(pipeline, name) for name in ("unet", "text_encoder", "text_encoder_2")})
        pipeline.unload_lora_weights()
        assert theirs.keys() == ours.keys(), file.name
        for name, change in ours.items():
            torch.testing.assert_close(theirs[name], change, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_kohyas_layout_has_the_names_of_a_single_checkpoint(target: str, tiny_sdxl: Path, tmp_path: Path) -> None:
    """sd-scripts and ComfyUI find a layer by its name in the checkpoint, `.` as `_`; the rules of checkpoints tell it."""
    model = open_model(ModelSource(location=str(tiny_sdxl)))
    adapter, files = trained(model, target, tmp_path)
    [kohya] = [file for file in files if file.name != DIFFUSERS_NAME]
    rules = sdxl_unet_rules()
    expected: dict[str, Tensor] = {}
    for part, prefix in (("denoiser", "lora_unet"), ("text_encoder", "lora_te1"), ("text_encoder_2", "lora_te2")):
        for name, change in changes({"": model.modules.get(part)}).items():
            plain = name.removeprefix(".")
            if part == "denoiser":
                plain = renamed(f"{plain}.weight", rules).removesuffix(".weight")
            elif not plain.startswith("text_model."):
                plain = f"text_model.{plain}"
            expected[f"{prefix}_{plain.replace('.', '_')}"] = change
    tensors = load_file(kohya)
    assert {key.partition(".")[0] for key in tensors} == expected.keys()
    assert len(tensors) == 3 * len(expected) == 3 * sum(map(len, adapter.modules.values()))
    for stem, change in expected.items():
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        made = (float(tensors[f"{stem}.alpha"]) / len(down)) * up.flatten(1) @ down.flatten(1)
        torch.testing.assert_close(made, change.flatten(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("text_encoder", [True, False])
@pytest.mark.parametrize("made_for", ["stable_diffusion", "sdxl"])
def test_an_adapter_of_stable_diffusion_1_on_sdxl_and_the_reverse_name_both(
    made_for: str, text_encoder: bool, tiny_sdxl: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Without metadata a LoRA of Stable Diffusion 1 was said to fit SDXL but for tensors whose kind is not known."""
    folders = {"stable_diffusion": tiny_model, "sdxl": tiny_sdxl}
    names = {"stable_diffusion": "Stable Diffusion 1 or 2", "sdxl": "Stable Diffusion XL"}
    base = open_model(ModelSource(location=str(folders.pop(made_for))))
    [(_, other)] = folders.items()
    _, files = trained(base, "cross_attention", tmp_path, text_encoder=text_encoder)
    model = open_model(ModelSource(location=str(other)))
    for file in files:
        for metadata in (True, False):
            if not metadata:
                save_file(load_file(file), file)
            with pytest.raises(UserError) as caught:
                read_adapter(file).updates(model)
            text = str(caught.value)
            assert f"was trained on {names[made_for]}" in text
            assert model.lora_format.architecture in text
            assert base.lora_format.architecture in text or not metadata
            assert len(text.splitlines()) <= 2
