"""Stable Diffusion 3 names its layers as Stability's code does, and may leave T5 out."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom import plugins
from loraloom.extensions.families.sd3.lora_format import FORMAT, NAMES
from loraloom.extensions.families.sd3.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.notices import distilled_lines
from loraloom.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("sd3") / "model", seed=3)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of version 3 whose model_index.json says that it has no T5."""
    return build_tiny(tmp_path_factory.mktemp("sd3") / "model", seed=3, version="3", t5=False)


def opened(folder: Path, *options: str) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder), options=options))


def encoder(model: DiffusionModel) -> PromptEncoder:
    return PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))


def check_parity(model: DiffusionModel) -> None:
    """A generation is the pipeline's."""
    wanted = ImageRequest(
        prompt="a red house on a hill", negative_prompt="blurred", seed=5, num_steps=2, guidance_scale=4.0,
        sampler="euler", width=64, height=96,
    )  # fmt: skip
    noise = first_noise(model, wanted)
    ours = denoise(model, encoder(model).encode, [wanted], noise_bchw=noise)
    torch.testing.assert_close(ours, model.reference_latents(None, wanted, noise), atol=2e-4, rtol=1e-4)


def native_checkpoint(transformer: Any) -> dict[str, Tensor]:
    """The weights on Stability's names: ours by the table, the few that carry no LoRA written out."""
    state = dict(transformer.state_dict())
    found: dict[str, Tensor] = {"pos_embed": state.pop("pos_embed.pos_embed")}
    modules = sorted({key.rpartition(".")[0] for key in state})
    for layer in NAMES.fused(modules):
        for end in ("weight", "bias"):
            found[f"{layer.name}.{end}"] = torch.cat([state.pop(f"{one}.{end}") for one in layer.modules])
    for key in list(state):
        module, _, end = key.rpartition(".")
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(attn2?)\.norm_(added_)?([qk])", module)
        if match:
            side = "context_block" if match[3] else "x_block"
            found[f"joint_blocks.{match[1]}.{side}.{match[2]}.ln_{match[4]}.{end}"] = state.pop(key)
        elif theirs := NAMES.name(module):
            found[f"{theirs}.{end}"] = state.pop(key)
    last = len(transformer.transformer_blocks) - 1
    assert set(state) == {"norm_out.linear.weight", "norm_out.linear.bias"}, "every other layer has a name there"
    for ours, theirs in (("norm_out.linear", "final_layer.adaLN_modulation.1"),):
        for end in ("weight", "bias"):
            found[f"{theirs}.{end}"] = torch.cat(state[f"{ours}.{end}"].chunk(2)[::-1])
    swapped = f"joint_blocks.{last}.context_block.adaLN_modulation.1"
    for end in ("weight", "bias"):
        found[f"{swapped}.{end}"] = torch.cat(found[f"{swapped}.{end}"].chunk(2)[::-1])
    return found


@pytest.mark.parametrize("version", ["3", "3.5"])
def test_names_of_layers_are_those_of_diffusers_converter(version: str, folder: Path, without: Path) -> None:
    """diffusers reads Stability's checkpoint to the weights that it was made of: fused rows and halves in their order."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    transformer: Any = opened(folder if version == "3.5" else without).modules.get("denoiser")
    state = transformer.state_dict()
    converted = convert_sd3_transformer_checkpoint_to_diffusers(native_checkpoint(transformer))
    assert converted.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(converted[key], value), key


def test_kohya_keys_are_those_of_sd_scripts() -> None:
    """sd-scripts' networks/lora_sd3.py names its layers by Stability's modules."""
    names = [f"transformer_blocks.0.attn.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")]
    assert [layer.name for layer in FORMAT.fused("denoiser", names)] == ["joint_blocks.0.x_block.attn.qkv"]
    assert FORMAT.kohya_name("denoiser", names[-1]) == "joint_blocks.0.x_block.attn.proj"
    assert FORMAT.kohya_prefix("denoiser") == "lora_unet"
    assert not FORMAT.fused("denoiser", names[:2]), "a fused layer needs all of its rows"


@pytest.mark.parametrize("length", [256, 40])
def test_a_model_without_t5_generates_as_the_pipeline_without_t5(length: int, folder: Path, without: Path) -> None:
    """By an empty entry of model_index.json, and by the option; a number of tokens counts then too: zeros are attended to."""
    check_parity(opened(without, f"t5_tokens={length}"))
    left_out = opened(folder, "t5=false", f"t5_tokens={length}")
    assert len(left_out.info.text_encoders) == 2
    check_parity(left_out)
    assert not any("text_encoder_3" in part.name for part in left_out.info.parts)


def test_t5s_text_length_is_the_pipelines_and_changes_the_image(folder: Path) -> None:
    short, long = opened(folder, "t5_tokens=32"), opened(folder)
    check_parity(short)
    assert short.text.fingerprint != long.text.fingerprint


def test_without_t5_text_beyond_clip_is_named(without: Path) -> None:
    plan = encoder(opened(without)).plan("word " * 60)
    assert plan.lost_tokens == plan.num_tokens - 75 > 0
    [clip] = opened(without).text.counts("word")
    assert (clip.name, clip.tokens, clip.capacity) == ("CLIP", 4, 75)


def test_a_model_that_was_opened_without_t5_is_saved_without_it(folder: Path, tmp_path: Path) -> None:
    opened(folder, "t5=false").save(tmp_path / "saved", "fp32")
    again = opened(tmp_path / "saved")
    assert [part.name for part in again.info.text_encoders] == ["text_encoder", "text_encoder_2"]
    check_parity(again)


def test_an_image_beyond_the_table_of_positions_is_refused(folder: Path) -> None:
    """24 patches of 16 px; the library would raise its own error in the middle of a run."""
    model = opened(folder)
    with pytest.raises(UserError, match="at most 384 px"):
        model.sampler("euler", 2, 400, 64)
    place = ImageGeometry(original=(400, 64), crop=(0, 0), target=(400, 64))
    with pytest.raises(UserError, match="at most 384 px"):
        model.condition(encoder(model).encode(["a"]), [place], None)


def test_a_prediction_type_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="flow matching"):
        open_model(ModelSource(location=str(folder), prediction_type="epsilon"))


def test_the_second_solver_nears_the_same_image(folder: Path) -> None:
    """DPM-Solver++ and Euler solve one equation: with many steps they agree better than with few."""
    model = opened(folder)

    def latents(sampler: str, steps: int) -> Tensor:
        wanted = ImageRequest(
            prompt="a house", negative_prompt="", seed=5, num_steps=steps, guidance_scale=1.0, sampler=sampler, width=64,
            height=64,
        )  # fmt: skip
        return denoise(model, encoder(model).encode, [wanted])

    true = latents("euler", 100)
    few, many = (float((latents("dpmpp_2m", steps) - true).abs().max()) for steps in (4, 50))
    assert many < 0.05
    assert many < 0.5 * few


def test_large_turbo_is_recognised_by_its_name_and_not_trained(folder: Path, tmp_path: Path) -> None:
    turbo = shutil.copytree(folder, tmp_path / "stable-diffusion-3.5-large-turbo")
    assert opened(turbo).info.defaults.num_steps == 4
    with pytest.raises(UserError, match="train_distilled=true"):
        distilled_lines(opened(turbo).info)
    assert len(distilled_lines(opened(turbo, "train_distilled=true").info)) == 1
