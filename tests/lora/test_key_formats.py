"""A plain LoRA is the same update in every key format that is in use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loraloom.extensions.families._ldm.lora_format import compvis_name
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.lora.files import read_adapter
from loraloom.lora.names import base_modules
from loraloom.utils.errors import UserError

from ..families.test_single_file import renamed, unet_rules
from .foreign import (
    ATTENTION,
    BLOCK,
    CONVOLUTION,
    LINEAR,
    TEXT,
    changes,
    kohya,
    load,
    pairs_of,
    random,
    weight_of,
    write,
)
from .test_exports import opened

Stem = Callable[[str], tuple[str, str]]
"""Module name to the keys of A and B."""


def peft(prefix: str) -> Stem:
    return lambda name: (f"{prefix}{name}.lora_A.weight", f"{prefix}{name}.lora_B.weight")


def sd_scripts(stem: Callable[[str], str]) -> Stem:
    return lambda name: (f"{stem(name)}.lora_down.weight", f"{stem(name)}.lora_up.weight")


def old_processor(prefix: str) -> Stem:
    def keys(name: str) -> tuple[str, str]:
        before, _, word = name.removesuffix(".0").rpartition(".")
        return (
            f"{prefix}{before}.processor.{word}_lora.down.weight",
            f"{prefix}{before}.processor.{word}_lora.up.weight",
        )

    return keys


def compvis(name: str) -> str:
    found = compvis_name(name, 1)
    assert found
    return found


UNET: dict[str, Stem] = {
    "peft in diffusers": peft("unet."),
    "diffusers 0.20 to today, its own scripts": lambda name: (
        f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight",
    ),
    "diffusers attention processors": old_processor("unet."),
    "diffusers 0.13, without a prefix": old_processor(""),
    "peft alone": peft("base_model.model."),
    "peft with the adapter's name": lambda name: (
        f"base_model.model.{name}.lora_A.default.weight", f"base_model.model.{name}.lora_B.default.weight",
    ),
    "sd-scripts": sd_scripts(kohya),
    "LyCORIS": sd_scripts(lambda name: kohya(name, "lycoris")),
    "sd-scripts on CompVis blocks": sd_scripts(lambda name: kohya(compvis(name))),
    "CompVis blocks with dots": lambda name: (
        f"diffusion_model.{compvis(name)}.lora_A.weight", f"diffusion_model.{compvis(name)}.lora_B.weight",
    ),
}  # fmt: skip

TEXT_ENCODER: dict[str, Stem] = {
    "peft in diffusers": peft("text_encoder.text_model."),
    "transformers 5 names": peft("text_encoder."),
    "diffusers' lora_linear_layer": lambda name: (
        f"text_encoder.text_model.{name}.lora_linear_layer.down.weight",
        f"text_encoder.text_model.{name}.lora_linear_layer.up.weight",
    ),
    "sd-scripts": sd_scripts(lambda name: kohya(f"text_model.{name}", "lora_te")),
}


def check(tiny_model: Path, path: Path, made: dict[str, tuple[Tensor, Tensor]], part: str) -> None:
    found = changes(lambda: opened(tiny_model), path, list(made), part)
    for name, (down, up) in made.items():
        torch.testing.assert_close(found[name], up @ down, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("title", UNET)
def test_every_key_format_of_the_denoiser_is_read(tiny_model: Path, tmp_path: Path, title: str) -> None:
    made = pairs_of(opened(tiny_model), ATTENTION)
    tensors = {key: value for name, pair in made.items() for key, value in zip(UNET[title](name), pair, strict=True)}
    check(tiny_model, write(tmp_path / "x.safetensors", tensors), made, "denoiser")


@pytest.mark.parametrize("title", TEXT_ENCODER)
def test_every_key_format_of_the_text_encoder_is_read(tiny_model: Path, tmp_path: Path, title: str) -> None:
    made = pairs_of(opened(tiny_model), TEXT, "text_encoder")
    keys = TEXT_ENCODER[title]
    tensors = {key: value for name, pair in made.items() for key, value in zip(keys(name), pair, strict=True)}
    check(tiny_model, write(tmp_path / "x.safetensors", tensors), made, "text_encoder")


def test_both_parts_in_two_key_formats_are_one_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """diffusers' scripts name the two parts differently within one file."""
    unet, text = pairs_of(opened(tiny_model), [LINEAR]), pairs_of(opened(tiny_model), TEXT, "text_encoder")
    tensors: dict[str, Tensor] = {}
    for name, pair in unet.items():
        tensors |= dict(zip(UNET["diffusers 0.20 to today, its own scripts"](name), pair, strict=True))
    for name, pair in text.items():
        tensors |= dict(zip(TEXT_ENCODER["diffusers' lora_linear_layer"](name), pair, strict=True))
    path = write(tmp_path / "x.safetensors", tensors)
    check(tiny_model, path, unet, "denoiser")
    check(tiny_model, path, text, "text_encoder")


@pytest.mark.parametrize(("layers", "widths"), [(1, (32, 64)), (2, (32, 32, 64)), (2, (32, 32, 32, 32))])
def test_compvis_names_are_the_ones_of_a_single_checkpoint(
    tmp_path: Path, layers: int, widths: tuple[int, ...]
) -> None:
    """The rules on the right write checkpoints that diffusers itself reads (tests/families/test_single_file.py)."""
    model = opened(build_tiny(tmp_path / "model", widths=widths, layers_per_block=layers, vae_widths=(16, 16)))
    names = list(base_modules(model.modules.get("denoiser")))
    rules = unet_rules(layers, len(widths))
    ours: dict[str, str | None] = {}
    for name in names:
        found = compvis_name(name, layers)
        ours[name] = (
            found.replace(".2.conv", ".1.conv") if found and ".upsamplers." in name and "s.0.u" in name else found
        )
    assert ours == {name: renamed(f"{name}.weight", rules).removesuffix(".weight") for name in names}


def test_convolutions_are_read_as_kernels_and_flattened(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    out, into, *kernel = weight_of(model, CONVOLUTION).shape
    down, up = random(3, into, *kernel), random(out, 3, 1, 1)
    expected = (up.flatten(1) @ down.flatten(1)).reshape(out, into, *kernel)
    for number, (first, second) in enumerate([(down, up), (down.flatten(1), up.flatten(1))]):
        stem = f"unet.{CONVOLUTION}"
        path = write(
            tmp_path / f"{number}.safetensors", {f"{stem}.lora_A.weight": first, f"{stem}.lora_B.weight": second}
        )
        found = changes(lambda: opened(tiny_model), path, [CONVOLUTION])[CONVOLUTION]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_transposed_pair_of_a_square_layer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Once only the number of elements was compared: (in, r) was read as (r, in)."""
    tensors = {f"unet.{LINEAR}.lora_A.weight": random(32, 3), f"unet.{LINEAR}.lora_B.weight": random(3, 32)}
    with pytest.raises(UserError, match="does not fit this model at"):
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))


def test_a_layer_in_two_key_formats_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    made = pairs_of(opened(tiny_model), [LINEAR])[LINEAR]
    tensors = dict(zip(UNET["sd-scripts"](LINEAR), made, strict=True))
    tensors |= dict(zip(UNET["peft in diffusers"](LINEAR), made, strict=True))
    with pytest.raises(UserError, match="holds a layer twice"):
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))


def test_a_folder_that_peft_wrote_is_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """`PeftModel.save_pretrained`: the strength stands in adapter_config.json, by pattern and with rsLoRA."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    settings = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["to_q", "to_k"], init_lora_weights=False,
        alpha_pattern={"attn2.to_k": 3, "attn1.to_q": 5}, rank_pattern={"attn2.to_q": 2},
    )  # fmt: skip
    theirs = get_peft_model(unet, settings)
    theirs.save_pretrained(tmp_path / "run")
    names = [name for name in ATTENTION if name.endswith(("to_q", "to_k"))]
    layers = dict(theirs.base_model.model.named_modules())
    found = changes(lambda: opened(tiny_model), tmp_path / "run", names)
    for name in names:
        torch.testing.assert_close(
            found[name], layers[name].get_delta_weight("default"), atol=1e-5, rtol=1e-5, msg=name
        )
    assert not read_adapter(tmp_path / "run").updates(opened(tiny_model)).notes
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text(encoding="utf-8"))["use_rslora"] is True


def test_the_block_in_the_tests_exists(tiny_model: Path) -> None:
    assert f"{BLOCK}.attn2.to_out.0" in base_modules(opened(tiny_model).modules.get("denoiser"))
