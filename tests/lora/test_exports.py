"""An export does in other programs what the adapter does here."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraloom import plugins
from loraloom.config.run import LoraConfig
from loraloom.generate.images import denoise
from loraloom.lora.export import export_adapter, first_noise, verify_exports
from loraloom.lora.files import find_adapter, read_adapter, save_adapter
from loraloom.lora.inject import Adapter, attach_new
from loraloom.lora.stack import LoraStack
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

REQUEST = ImageRequest(prompt="a drawn image", num_steps=3, guidance_scale=3.0, sampler="ddim", width=64, height=64)
DOMAIN = plugins.load("domains", "freetext")


def opened(folder: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder)), "stable_diffusion")


def shaken(model: DiffusionModel, **settings: object) -> Adapter:
    """A fresh adapter whose B is not zero."""
    adapter = attach_new(model, LoraConfig.model_validate(settings), seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter


def drawn(model: DiffusionModel) -> torch.Tensor:
    encoder = PromptEncoder(text=model.text, domain=DOMAIN)
    return denoise(model, encoder.encode, [REQUEST], noise_bchw=first_noise(model, REQUEST))


RECORD = {
    "rank": 4,
    "alpha": 6.0,
    "trigger": "sks",
    "prompt_method": "attention",
    "size": "64x64",
    "domain": "freetext",
}


@pytest.mark.parametrize("target", ["cross_attention", "attention", "all_linear", "all_linear_conv"])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_both_layouts_draw_the_same_in_a_fresh_diffusers_pipeline(
    tiny_model: Path, tmp_path: Path, target: str, text_encoder: bool
) -> None:
    model = opened(tiny_model)
    adapter = shaken(model, rank=4, alpha=6.0, target=target, text_encoder=text_encoder)
    save_adapter(tmp_path / "adapter.safetensors", adapter.state(), RECORD)
    layers = read_adapter(tmp_path).layers(model)
    files = export_adapter(model, layers, RECORD, tmp_path / "exports", "name", "fp32")
    checks = verify_exports(model, files, drawn(model), REQUEST)
    for check in checks:
        assert check.effect > 0.01
        assert check.difference < 1e-4, (check.file.name, check.difference, check.effect)


def test_a_base_that_lies_in_half_precision_is_drawn_with_in_full(tiny_model: Path, tmp_path: Path) -> None:
    opened(tiny_model).save(tmp_path / "half", "fp16")
    model = opened(tmp_path / "half")
    theirs = model.reference_latents(None, REQUEST, first_noise(model, REQUEST))
    assert torch.allclose(theirs, drawn(model), atol=1e-4)


@pytest.mark.parametrize(
    "which", ["adapter.safetensors", "exports/pytorch_lora_weights.safetensors", "exports/name.safetensors"]
)
def test_every_file_we_write_can_be_read_back(tiny_model: Path, tmp_path: Path, which: str) -> None:
    model = opened(tiny_model)
    adapter = shaken(model, rank=4, alpha=6.0, target="all_linear_conv", text_encoder=True)
    save_adapter(tmp_path / "adapter.safetensors", adapter.state(), RECORD)
    export_adapter(model, read_adapter(tmp_path).layers(model), RECORD, tmp_path / "exports", "name", "fp32")
    fresh = opened(tiny_model)
    LoraStack(fresh).add("again", read_adapter(tmp_path / which))
    assert torch.allclose(drawn(fresh), drawn(model), atol=1e-4)


def test_an_adapter_made_by_peft_itself_loads(tiny_model: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig as Peft
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    unet.add_adapter(
        Peft(r=4, lora_alpha=8, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"])
    )
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(unet), safe_serialization=True,
        unet_lora_adapter_metadata={"r": 4, "lora_alpha": 8},
    )  # fmt: skip
    model = opened(tiny_model)
    LoraStack(model).add("theirs", read_adapter(tmp_path))
    assert model.modules.get("denoiser") is not unet
    noise = first_noise(model, REQUEST)
    states = PromptEncoder(text=model.text, domain=DOMAIN).encode([REQUEST.prompt])[0]["hidden"]
    with torch.inference_mode():
        ours = model.modules.get("denoiser")(
            noise, torch.tensor([500]), encoder_hidden_states=states, return_dict=False
        )[0]
        theirs = unet.eval()(noise, torch.tensor([500]), encoder_hidden_states=states, return_dict=False)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_is_float32_on_any_base(tiny_model: Path) -> None:
    base = drawn(opened(tiny_model))
    model = opened(tiny_model)
    attach_new(model, LoraConfig(), seed=0)
    assert torch.equal(drawn(model), base)
    half = opened(tiny_model)
    half.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    adapter = attach_new(half, LoraConfig(text_encoder=True), seed=0)
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    assert {
        parameter.dtype for parameter in half.modules.get("denoiser").parameters() if not parameter.requires_grad
    } == {torch.bfloat16}


def test_the_first_weights_are_decided_by_the_seed(tiny_model: Path) -> None:
    states = [attach_new(opened(tiny_model), LoraConfig(), seed=seed).state() for seed in (0, 0, 1)]
    key = next(key for key in states[0] if ".lora_A." in key)
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_exports_carry_the_metadata_that_other_programs_read(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    model = opened(tiny_model)
    adapter = shaken(model, rank=4, alpha=6.0)
    save_adapter(tmp_path / "adapter.safetensors", adapter.state(), RECORD)
    files = export_adapter(model, read_adapter(tmp_path).layers(model), RECORD, tmp_path / "exports", "name", "fp16")
    for file in files:
        with safe_open(file, framework="pt") as opened_file:
            metadata = opened_file.metadata()
            assert {opened_file.get_tensor(key).dtype for key in opened_file.keys()} == {torch.float16}  # noqa: SIM118
        assert metadata["ss_network_dim"] == "4"
        assert metadata["ss_network_alpha"] == "4.0"
        assert metadata["modelspec.trigger_phrase"] == "sks"
        assert metadata["modelspec.architecture"].endswith("/lora")
        assert json.loads(metadata["loraloom"])["prompt_method"] == "attention"
        data = file.read_bytes()
        after_header = data[8 + int.from_bytes(data[:8], "little") :]
        assert metadata["sshs_model_hash"] == hashlib.sha256(after_header).hexdigest()
    assert {key.rsplit(".", 1)[-1] for key in load_file(files[1])} == {"weight", "alpha"}


def test_an_adapter_of_another_model_is_refused_with_the_key(tiny_model: Path, tmp_path: Path) -> None:
    save_file(
        {"unet.other.to_q.lora_A.weight": torch.ones(2, 3), "unet.other.to_q.lora_B.weight": torch.ones(3, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(UserError, match=r"does not fit this model.*unet\.other\.to_q"):
        LoraStack(opened(tiny_model)).add("x", read_adapter(tmp_path / "x.safetensors"))


def test_a_folder_without_an_adapter_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter in this folder"):
        find_adapter(tmp_path)
    with pytest.raises(UserError, match="no such adapter"):
        find_adapter(tmp_path / "gone")
