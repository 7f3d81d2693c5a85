"""A single checkpoint of Stable Diffusion XL as people download it opens as the same model as its diffusers folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraloom import plugins
from loraloom.extensions.families._ldm.known_configs import (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_XL,
    Configs,
)
from loraloom.extensions.families.sdxl import FAMILY
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

from .test_single_file import Rule, as_convolution, renamed, unet_rules, vae_rules, write_ldm

DOMAIN = plugins.load("domains", "freetext")
PARTS = ("denoiser", "vae", "text_encoder", "text_encoder_2")

OPENCLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
OPENCLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def sdxl_unet_rules() -> list[Rule]:
    """Names of a UNet whose up blocks with a sampler all have attention: diffusers to LDM."""
    above = (
        r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)",
        lambda match: f"output_blocks.{int(match[1]) * 3 + 2}.2.conv.{match[2]}",
    )
    return [
        (r"add_embedding\.linear_1\.(.+)", r"label_emb.0.0.\1"),
        (r"add_embedding\.linear_2\.(.+)", r"label_emb.0.2.\1"),
        above,
        *unet_rules(layers=2, num_levels=3),
    ]


def openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder with projection as OpenCLIP saves it: q, k and v in one matrix, the projection transposed."""
    made: dict[str, Tensor] = {}
    attention: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if key in OPENCLIP:
            made[OPENCLIP[key]] = tensor.T.contiguous() if key == "text_projection.weight" else tensor
            continue
        match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        assert match, key
        place = f"transformer.resblocks.{match[1]}"
        if match[2].startswith("self_attn.") and match[2] != "self_attn.out_proj":
            attention.setdefault((place, match[3]), {})[match[2][10]] = tensor
        else:
            made[f"{place}.{OPENCLIP_LAYER[match[2]]}.{match[3]}"] = tensor
    for (place, what), tensors in attention.items():
        made[f"{place}.attn.in_proj_{what}"] = torch.cat([tensors[letter] for letter in "qkv"])
    return made


def write_sdxl(folder: Path, file: Path, **extra: Tensor) -> Path:
    """Turn a diffusers folder into one checkpoint as Stability's own code writes them."""
    tensors: dict[str, Tensor] = dict(extra)
    for key, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{renamed(key, sdxl_unet_rules())}"] = tensor
    for key, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        new = renamed(key, vae_rules(4))
        tensors[f"first_stage_model.{new}"] = as_convolution(new, tensor)
    for key, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    second = load_file(folder / "text_encoder_2" / "model.safetensors")
    for key, tensor in openclip(second).items():
        tensors[f"conditioner.embedders.1.model.{key}"] = tensor
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    positions = torch.arange(77)[None]
    tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = positions
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILY.build_tiny(tmp_path_factory.mktemp("sdxl") / "model", seed=4)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_sdxl(folder, folder.parent / "tiny.safetensors")


def opened(location: Path, config: Path | None = None, **values: Any) -> DiffusionModel:
    return open_model(ModelSource(location=str(location), config=str(config) if config else None, **values))


def image(model: DiffusionModel) -> Tensor:
    request = ImageRequest(
        prompt="two rooms", negative_prompt="blur", num_steps=3, guidance_scale=4.0, sampler="ddim", width=64, height=32
    )
    encoder = PromptEncoder(text=model.text, domain=DOMAIN)
    return denoise(model, encoder.encode, [request], noise_bchw=first_noise(model, request))


def test_a_checkpoint_has_the_weights_of_its_folder(folder: Path, file: Path) -> None:
    expected, got = opened(folder), opened(file, folder)
    assert got.info.family == "sdxl"
    assert not any(got.modules.loaded(part) for part in PARTS)
    for part in PARTS:
        state = got.modules.get(part).state_dict()
        for name, tensor in expected.modules.get(part).state_dict().items():
            assert torch.equal(state[name], tensor), (part, name)
            assert state[name].dtype == torch.float32
    torch.testing.assert_close(image(got), image(expected), atol=1e-5, rtol=1e-5)


def test_an_image_from_a_checkpoint_equals_diffusers_own(folder: Path, file: Path) -> None:
    model = opened(file, folder)
    request = ImageRequest(
        prompt="a plan", negative_prompt="", num_steps=3, guidance_scale=4.0, sampler="ddim", width=64, height=64
    )
    noise = first_noise(model, request)
    ours = denoise(model, PromptEncoder(text=model.text, domain=DOMAIN).encode, [request], noise_bchw=noise)
    torch.testing.assert_close(ours, model.reference_latents(None, request, noise), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_half_precision_is_read_in_float32(folder: Path, file: Path, tmp_path: Path) -> None:
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in load_file(file).items()}
    save_file(half, tmp_path / "half.safetensors")
    model = opened(tmp_path / "half.safetensors", folder)
    for part in PARTS:
        assert {parameter.dtype for parameter in model.modules.get(part).parameters()} == {torch.float32}
    torch.testing.assert_close(image(model), image(opened(folder)), atol=0.05, rtol=0.05)


# ----------------------------------------------------------------------------------------------- without a network


@pytest.fixture
def tokenizer(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CLIP's two tokenizer files and nothing else, as ComfyUI ships them."""
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "sd1_tokenizer"
    place.mkdir()
    words = list(json.loads((tiny_model / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    # As many tokens as the real text encoders know.
    filler = [f"<{number}>" for number in range(49408 - len(words))]
    vocabulary = [*words[:-2], *filler, *words[-2:]]
    (place / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(vocabulary)}), encoding="utf-8")
    (place / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return place


def test_clips_two_tokenizer_files_are_all_that_a_checkpoint_needs(file: Path, tokenizer: Path) -> None:
    model = opened(file, tokenizer)
    assert model.info.family == "sdxl"
    assert model.info.defaults.size_px == 1024
    assert model.text.tokenizer.window([])[2:] == [49407] * 75
    assert opened(file, tokenizer).text.tokenizer.tokenize("two rooms")
    with pytest.raises(UserError, match="does not belong to its weights"):  # the tiny weights are of other widths
        model.modules.get("denoiser")


def test_without_a_tokenizer_the_user_is_told_where_one_lies(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"carries no tokenizer(.|\n)*--model-config FOLDER(.|\n)*sd1_tokenizer"):
        opened(file)
    with pytest.raises(UserError, match=r"no configs and no tokenizer in this folder(.|\n)*vocab.json"):
        opened(file, tmp_path)


def test_a_checkpoint_that_says_that_it_predicts_velocity_is_believed(folder: Path, tmp_path: Path) -> None:
    """Such models (NoobAI XL v-pred) were read as epsilon, and drew noise without a word."""
    marks = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    schedule = opened(write_sdxl(folder, tmp_path / "v.safetensors", **marks), folder).info.schedule
    assert schedule.prediction_type == "v_prediction"
    assert float(schedule.signal_t[-1]) == 0.0
    forced = opened(tmp_path / "v.safetensors", folder, prediction_type="epsilon").info.schedule
    assert forced.prediction_type == "epsilon"


def test_a_stable_diffusion_2_checkpoint_must_be_told_what_it_predicts(tokenizer: Path, tmp_path: Path) -> None:
    model = build_tiny(tmp_path / "model", text_width=1024, text_layers=1, widths=(32, 32))
    checkpoint = write_ldm(model, tmp_path / "sd2.safetensors", layers=1, num_levels=2)
    with pytest.raises(UserError, match="does not say what its UNet predicts"):
        opened(checkpoint, tokenizer)
    told = opened(checkpoint, tokenizer, prediction_type="v_prediction")
    assert told.info.schedule.prediction_type == "v_prediction"
    assert told.lora_format.architecture == "stable-diffusion-v2"
    assert told.text.tokenizer.window([])[2:] == [0] * 75  # of Stable Diffusion 2, which pads with `!`


@pytest.mark.parametrize(
    ("configs", "numbers"),
    [
        (STABLE_DIFFUSION_1, {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (STABLE_DIFFUSION_2, {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
        (
            STABLE_DIFFUSION_XL,
            {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        ),
    ],
)
def test_the_known_configs_make_models_of_the_published_sizes(configs: Configs, numbers: dict[str, int]) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    for part, expected in numbers.items():
        config: Any = dict(configs[f"{part}/config.json"])
        with torch.device("meta"):
            if part in kinds:
                module = kinds[part].from_config(config)
            else:
                kind: Any = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}[part]
                module = kind(CLIPTextConfig(**config))
        assert sum(parameter.numel() for parameter in module.parameters()) == expected, part
