"""A single checkpoint in the original (LDM) layout opens as the same model as its diffusers folder."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraloom import plugins
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.models.loading import open_model, resolve
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

FAMILY = plugins.load("families", "stable_diffusion")

Rule = tuple[str, Callable[[re.Match[str]], str] | str]

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(key: str, rules: list[Rule]) -> str:
    """The key by the first rule that matches."""
    for pattern, replacement in rules:
        new, count = re.subn(f"^{pattern}$", replacement, key)
        if count:
            return new
    raise AssertionError(f"no rule for {key}")


def unet_rules(layers: int, num_levels: int) -> list[Rule]:
    """Names of a UNet whose first up block has no attention, as in Stable Diffusion 1: diffusers to LDM."""
    a_level = layers + 1

    def resnet(match: re.Match[str]) -> str:
        return RESNET[match["name"]]

    def below(match: re.Match[str]) -> str:
        place = 1 + int(match["b"]) * a_level + int(match["l"])
        return f"input_blocks.{place}.0.{resnet(match)}.{match['rest']}"

    def above(match: re.Match[str]) -> str:
        return f"output_blocks.{int(match['b']) * a_level + int(match['l'])}.0.{resnet(match)}.{match['rest']}"

    def middle(match: re.Match[str]) -> str:
        return f"middle_block.{2 * int(match['l'])}.{resnet(match)}.{match['rest']}"

    names = r"(?P<name>norm1|conv1|norm2|conv2|time_emb_proj|conv_shortcut)\.(?P<rest>.+)"
    return [
        (r"time_embedding\.linear_1\.(.+)", r"time_embed.0.\1"),
        (r"time_embedding\.linear_2\.(.+)", r"time_embed.2.\1"),
        (r"conv_in\.(.+)", r"input_blocks.0.0.\1"),
        (r"conv_norm_out\.(.+)", r"out.0.\1"),
        (r"conv_out\.(.+)", r"out.2.\1"),
        (rf"down_blocks\.(?P<b>\d+)\.resnets\.(?P<l>\d+)\.{names}", below),
        (rf"up_blocks\.(?P<b>\d+)\.resnets\.(?P<l>\d+)\.{names}", above),
        (rf"mid_block\.resnets\.(?P<l>\d+)\.{names}", middle),
        (r"mid_block\.attentions\.0\.(.+)", r"middle_block.1.\1"),
        (
            r"down_blocks\.(\d+)\.attentions\.(\d+)\.(.+)",
            lambda m: f"input_blocks.{1 + int(m[1]) * a_level + int(m[2])}.1.{m[3]}",
        ),
        (
            r"up_blocks\.(\d+)\.attentions\.(\d+)\.(.+)",
            lambda m: f"output_blocks.{int(m[1]) * a_level + int(m[2])}.1.{m[3]}",
        ),
        (
            r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)",
            lambda m: f"input_blocks.{(int(m[1]) + 1) * a_level}.0.op.{m[2]}",
        ),
        (
            r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)",
            lambda m: f"output_blocks.{int(m[1]) * a_level + layers}.{1 if m[1] == '0' else 2}.conv.{m[2]}",
        ),
    ]


def vae_rules(num_levels: int) -> list[Rule]:
    """Names of an AutoencoderKL: diffusers to LDM."""

    def attention(match: re.Match[str]) -> str:
        return f"{match[1]}.mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"

    def shortcut(rest: str) -> str:
        return rest.replace("conv_shortcut", "nin_shortcut")

    last = num_levels - 1
    return [
        (r"((?:post_)?quant_conv\..+)", r"\1"),
        (r"((?:en|de)coder)\.conv_norm_out\.(.+)", r"\1.norm_out.\2"),
        (r"((?:en|de)coder\.conv_(?:in|out)\..+)", r"\1"),
        (r"((?:en|de)coder)\.mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)\.(.+)", attention),
        (
            r"((?:en|de)coder)\.mid_block\.resnets\.(\d)\.(.+)",
            lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}.{shortcut(m[3])}",
        ),
        (
            r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.(.+)",
            lambda m: f"encoder.down.{m[1]}.block.{m[2]}.{shortcut(m[3])}",
        ),
        (r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.(.+)", r"encoder.down.\1.downsample.\2"),
        (
            r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.(.+)",
            lambda m: f"decoder.up.{last - int(m[1])}.block.{m[2]}.{shortcut(m[3])}",
        ),
        (r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.(.+)", lambda m: f"decoder.up.{last - int(m[1])}.upsample.{m[2]}"),
    ]


def as_convolution(key: str, tensor: Tensor) -> Tensor:
    """LDM's VAE attention is made of 1x1 convolutions."""
    return tensor[:, :, None, None] if ".attn_1." in key and key.endswith(".weight") and tensor.ndim == 2 else tensor


def write_ldm(folder: Path, file: Path, *, layers: int, num_levels: int) -> Path:
    """Turn a diffusers folder of the Stable Diffusion 1 layout into one checkpoint as CompVis wrote them."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{renamed(key, unet_rules(layers, num_levels))}"] = tensor
    for key, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        new = renamed(key, vae_rules(4))
        tensors[f"first_stage_model.{new}"] = as_convolution(new, tensor)
    for key, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    return file


@pytest.fixture(scope="session", params=["two levels", "the blocks of Stable Diffusion 1"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> tuple[Path, Path]:
    """A diffusers folder and the same weights as one checkpoint."""
    root = tmp_path_factory.mktemp("single")
    if request.param == "two levels":
        return tiny_model, write_ldm(tiny_model, root / "tiny.safetensors", layers=1, num_levels=2)
    folder = build_tiny(root / "sd1", widths=(32, 32, 64, 64), layers_per_block=2, seed=3)
    return folder, write_ldm(folder, root / "sd1.safetensors", layers=2, num_levels=4)


def opened(location: Path, config: Path | None = None) -> DiffusionModel:
    return open_model(ModelSource(location=str(location), config=str(config) if config else None), "stable_diffusion")


def answers(model: DiffusionModel) -> Mapping[str, Tensor]:
    """What every part says to fixed questions."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    pixels = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    with torch.inference_mode():
        text: Any = model.text
        ids = text.window(text.tokenize("a plan of two rooms"))
        hidden = text.encode_windows(torch.tensor([ids] * 2))
        mean, log_variance = model.encode_images(pixels)
        return {
            "text": hidden,
            "mean": mean,
            "log-variance": log_variance,
            "pixels": model.decode_latents(latents[:1]),
            "prediction": model.predict(latents, torch.tensor([7, 900]), {"hidden": hidden}),
        }


def test_all_three_parts_answer_as_from_the_folder(pair: tuple[Path, Path]) -> None:
    folder, file = pair
    expected, got = answers(opened(folder)), answers(opened(file, folder))
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, atol=1e-5), (name, float((got[name] - tensor).abs().max()))


def test_a_single_file_is_recognised_and_reads_no_weights_when_opened(pair: tuple[Path, Path]) -> None:
    folder, file = pair
    assert FAMILY.matches(resolve(ModelSource(location=str(file), config=str(folder))))
    model = opened(file, folder)
    assert not any(model.modules.loaded(part) for part in ("denoiser", "vae", "text_encoder"))


def test_parts_are_float32_frozen_and_can_be_dropped_and_read_again(pair: tuple[Path, Path]) -> None:
    folder, file = pair
    model = opened(file, folder)
    for part in ("denoiser", "vae", "text_encoder"):
        module = model.modules.get(part)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in module.parameters())
        assert not module.training
        model.modules.drop(part)
        assert not model.modules.loaded(part)
        assert model.modules.get(part) is not module


def test_a_config_of_another_layout_says_which_part_does_not_fit(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "wide", widths=(64, 96), text_width=32)
    model = opened(pair[1], other)
    for part in ("denoiser", "text_encoder"):
        with pytest.raises(UserError, match="cannot be read"):
            model.modules.get(part)


def test_a_checkpoint_without_a_text_encoder_says_so(tiny_model: Path, tmp_path: Path) -> None:
    whole = load_file(write_ldm(tiny_model, tmp_path / "whole.safetensors", layers=1, num_levels=2))
    save_file({k: v for k, v in whole.items() if not k.startswith("cond_stage")}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="text_encoder"):
        opened(tmp_path / "part.safetensors", tiny_model).modules.get("text_encoder")


def test_weights_of_half_precision_are_read(tiny_model: Path, tmp_path: Path) -> None:
    whole = load_file(write_ldm(tiny_model, tmp_path / "whole.safetensors", layers=1, num_levels=2))
    save_file({key: tensor.half() for key, tensor in whole.items()}, tmp_path / "half.safetensors")
    expected, got = answers(opened(tiny_model)), answers(opened(tmp_path / "half.safetensors", tiny_model))
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, atol=0.05), name


def test_a_image_from_a_single_file_equals_diffusers_own(pair: tuple[Path, Path]) -> None:
    from loraloom.generate.images import denoise
    from loraloom.lora.export import first_noise
    from loraloom.prompts.encoder import PromptEncoder
    from loraloom.protocols.generation import ImageRequest

    folder, file = pair
    model = opened(file, folder)
    request = ImageRequest(
        prompt="two rooms", negative_prompt="blur", num_steps=3, guidance_scale=4.0, sampler="ddim", width=64, height=64
    )
    encoder = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))
    noise = first_noise(model, request)
    ours = denoise(model, encoder.encode, [request], noise_bchw=noise)
    assert torch.allclose(ours, model.reference_latents(None, request, noise), atol=1e-4)
