"""A file that is not read says what it is and what to do; no two kinds share false advice."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loraloom.lora.files import read_adapter
from loraloom.utils.errors import UserError

from .foreign import BLOCK, CONVOLUTION, LINEAR, TEXT, kohya, load, pairs_of, random, weight_of, write
from .test_exports import opened

STEM = kohya(LINEAR)
LORA = (".lora_down.weight", ".lora_up.weight")


def lora(stem: str, into: int = 32, out: int = 32) -> dict[str, torch.Tensor]:
    return {f"{stem}{LORA[0]}": random(2, into), f"{stem}{LORA[1]}": random(out, 2), f"{stem}.alpha": torch.tensor(1.0)}


XL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
KINDS: list[tuple[str, dict[str, torch.Tensor], str, str]] = [
    ("A1111's textual inversion", {"emb_params": random(3, 768)}, "textual inversion", "not read"),
    ("diffusers' textual inversion", {"<cat-toy>": random(1, 768)}, "textual inversion", "not read"),
    ("textual inversion of SDXL", {"clip_l": random(1, 768), "clip_g": random(1, 1280)},
     "textual inversion", "not read"),
    ("a LoRA with a bundled word", {**lora(STEM), "bundle_emb.cat.string_to_param.*": random(1,
     768)}, "textual inversion", ""),
    ("hypernetwork", {"768.0.linear.0.weight": random(4, 4)}, "hypernetwork", "A1111"),
    ("Control-LoRA", {"lora_controlnet": torch.zeros(0), "input_hint_block.0.weight": random(4,
     4)}, "Control-LoRA", "ComfyUI"),
    ("ControlNet", {"control_model.zero_convs.0.0.weight": random(4, 4)}, "ControlNet", "diffusers"),
    ("ControlLLLite", {"lllite_unet_down_blocks_1.down.0.weight": random(4, 4)}, "ControlNet", ""),
    ("IP-Adapter", {"ip_adapter.1.to_k_ip.weight": random(4, 4)}, "IP-Adapter", "load_ip_adapter"),
    ("AnimateDiff", lora("unet.down_blocks.0.motion_modules.0.to_q".replace(".", "_")), "motion LoRA", "AnimateDiff"),
    ("FLUX of sd-scripts", lora("lora_unet_double_blocks_0_img_attn_qkv"), "FLUX", "FLUX.1 model"),
    ("FLUX of diffusers",
     {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": random(2, 4)}, "FLUX", ""),
    ("FLUX of BFL", {"double_blocks.0.img_attn.qkv.lora_A.weight": random(2, 4)}, "FLUX", ""),
    ("SD 3 of sd-scripts", lora("lora_unet_joint_blocks_0_x_block_attn_qkv"), "Stable Diffusion 3", ""),
    ("a transformer of diffusers",
     {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": random(2, 4)}, "transformer", ""),
    ("a transformer of peft", {"base_model.model.blocks.0.attn.to_q.lora_A.weight": random(2, 4)}, "transformer", ""),
    ("SDXL, both encoders", {**lora("lora_te1_text_model_x"), **lora("lora_te2_text_model_x"),
     **lora(STEM)}, "Stable Diffusion XL", ""),
    ("SDXL, UNet alone", lora(XL), "Stable Diffusion XL", "this base"),
    ("SDXL of diffusers", {"text_encoder_2.text_model.x.lora_A.weight": random(2, 4)}, "Stable Diffusion XL", ""),
    ("Stable Cascade", lora("lora_prior_unet_down_blocks_0_0_channelwise_0"), "prior", ""),
    ("OFT of LyCORIS", {f"{STEM}.oft_blocks": random(4, 8, 8), f"{STEM}.alpha": torch.tensor(1.0)}, "OFT", "--model"),
    ("OFT of sd-scripts", {f"oft_unet_{LINEAR.replace('.', '_')}.oft_blocks": random(4, 8, 8)}, "OFT", "--model"),
    ("OFT of peft", {f"base_model.model.{LINEAR}.oft_R.weight": random(4, 8)}, "OFT", ""),
    ("BOFT of peft", {f"base_model.model.{LINEAR}.boft_R": random(4, 8, 8)}, "BOFT", ""),
    ("IA3 of LyCORIS", {f"{STEM}.weight": random(32, 1), f"{STEM}.on_input": torch.tensor(True)},
     r"\(IA\)³", "--model"),
    ("IA3 of peft", {f"base_model.model.{LINEAR}.ia3_l": random(32, 1)}, r"\(IA\)³", ""),
    ("GLoRA", {f"{STEM}.{role}.weight": random(4, 4) for role in ("a1", "a2", "b1", "b2")}, "GLoRA", "--model"),
    ("T-LoRA", {f"{STEM}.q_layer.weight": random(4, 4), f"{STEM}.lambda_layer": random(1, 4)}, "T-LoRA", ""),
    ("norm layers", {f"{kohya('down_blocks.0.resnets.0.norm1')}.w_norm": random(32)}, "norm layers", "train_norm"),
    ("norm layers of full differences", {f"{kohya('conv_norm_out')}.diff": random(32),
     f"{kohya('conv_norm_out')}.diff_b": random(32)}, "norm layers", "train_norm"),
    ("norm layers beside a LoRA", {**lora(STEM), f"{kohya(BLOCK)}_norm1.diff": random(32)}, "norm layers", "train_norm"),
    ("biases beside", {**{f"unet.{LINEAR}.lora_{x}.weight": random(2, 32) for x in "A"},
     f"unet.{LINEAR}.lora_B.bias": random(32)},
     "lora_bias", ""),
    ("a core in LoKr's first half", {f"{STEM}.lokr_t1": random(2, 2, 3, 3)}, "first half of a LoKr", ""),
    ("VeRA", {f"base_model.model.{LINEAR}.vera_lambda_b": random(4)}, "another method of peft", ""),
    ("a single checkpoint", {"model.diffusion_model.input_blocks.0.0.weight": random(4, 4)},
     "whole model", "--model FILE"),
    ("a UNet", {"conv_in.weight": random(4, 4), "down_blocks.0.resnets.0.conv1.weight": random(4,
     4)}, "part of a whole", "--model"),
    ("a VAE", {"encoder.conv_in.weight": random(4, 4), "decoder.conv_in.weight": random(4, 4)},
     "part of a whole", "--model"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "what", "fix"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS])
def test_every_kind_that_is_not_read_has_its_own_sentence(
    tiny_model: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], what: str, fix: str
) -> None:
    with pytest.raises(UserError, match=what) as error:
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))
    assert fix in (error.value.fix or "")
    assert "x.safetensors" in error.value.what


def test_the_base_that_the_metadata_names_is_said(tiny_model: Path, tmp_path: Path) -> None:
    said = {"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "pony.safetensors"}
    for tensors in (lora(XL), lora("lora_unet_something_else"), lora(kohya(f"{LINEAR[:-4]}to_k"), into=2048)):
        with pytest.raises(UserError, match=r"(?s)sdxl_base_v1-0 \(ss_base_model_version\), pony\.safetensors"):
            load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors, said))
    with pytest.raises(UserError, match=r"stable-diffusion-xl-v1-base/lora \(modelspec\.architecture\)"):
        load(
            opened(tiny_model),
            write(tmp_path / "x.safetensors", lora(XL), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}),
        )


def test_a_file_of_another_base_that_fits_by_chance_is_noted(tiny_model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", lora(STEM), {"ss_base_model_version": "sd_v2"})
    notes = read_adapter(path).updates(opened(tiny_model)).notes
    assert len(notes) == 1
    assert "sd_v2" in notes[0]


def test_another_width_of_text_embeddings_is_said(tiny_model: Path, tmp_path: Path) -> None:
    tensors = lora(kohya(LINEAR.replace("attn1.to_q", "attn2.to_k")), into=1024)
    with pytest.raises(UserError, match=r"width 1024 \(Stable Diffusion 2\), this one's have 64"):
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize(
    ("roles", "lacking"),
    [
        (["lora_down.weight", "alpha"], "up"), (["lora_up.weight"], "down"), (["alpha"], "down, up"),
        (["hada_w1_a", "hada_w1_b", "hada_w2_a"], "hada_w2_b"), (["lokr_w1"], "lokr_w2"),
         (["lokr_w1", "lokr_w2_a"], "lokr_w2_b"),
        (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"], "hada_t2"),
         (["lora_mid.weight", "lora_up.weight"], "down"),
        (["dora_scale"], "down, up"),
    ],
)  # fmt: skip
def test_half_a_layer_says_which_half_is_missing(
    tiny_model: Path, tmp_path: Path, roles: list[str], lacking: str
) -> None:
    """Beside a whole layer, so that the file has a place in the model."""
    tensors = lora(kohya(LINEAR.replace("to_q", "to_v")))
    for role in roles:
        tensors[f"{STEM}.{role}"] = torch.tensor(1.0) if role == "alpha" else random(2, 2, 1, 1)
    with pytest.raises(UserError, match="holds half a layer") as error:
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))
    assert lacking in str(error.value.expected)


def test_two_kinds_in_one_layer_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    tensors = {**lora(STEM), f"{STEM}.diff": random(*weight_of(model, LINEAR).shape)}
    with pytest.raises(UserError, match="mixes kinds in one layer"):
        load(model, write(tmp_path / "x.safetensors", tensors))


def test_no_key_is_dropped_one_stray_tensor_refuses_the_file(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    down, up = pairs_of(model, [LINEAR])[LINEAR]
    whole = {f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}
    for stray in (f"{STEM}.lora_extra.weight", "something", f"{kohya(CONVOLUTION)}.mystery"):
        with pytest.raises(UserError, match="but for 1 of 3 tensors, whose kind is not known"):
            load(model, write(tmp_path / "x.safetensors", {**whole, stray: random(2, 2)}))


def test_another_base_is_named_with_the_one_that_is_needed(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on Stable Diffusion XL") as error:
        load(opened(tiny_model), write(tmp_path / "x.safetensors", lora(XL)))
    assert "get one for stable-diffusion-v1" in (error.value.fix or "")
    for width, base in ((2048, "Stable Diffusion XL"), (1024, "Stable Diffusion 2"), (768, "Stable Diffusion 1")):
        for name in ("to_k", "to_v"):
            tensors = lora(kohya(LINEAR.replace("attn1.to_q", f"attn2.{name}")), into=width)
            with pytest.raises(UserError, match=rf"width {width} \({base}\)"):
                load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))


def test_a_file_without_tensors_and_one_with_a_stray_key_get_no_advice_about_the_base(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Both said "use the base model that the adapter was trained on", which was in use."""
    with pytest.raises(UserError, match="holds no tensor at all") as error:
        save_file({}, tmp_path / "x.safetensors")
        load(opened(tiny_model), tmp_path / "x.safetensors")
    assert "base" not in str(error.value)
    model = opened(tiny_model)
    names = [LINEAR.replace("to_q", name) for name in ("to_q", "to_k", "to_v")]
    tensors = {key: value for name in names for key, value in lora(kohya(name)).items()}
    with pytest.raises(UserError, match=r"fits this model but for 1 of 10 tensors.*'author_note'") as error:
        load(model, write(tmp_path / "x.safetensors", {**tensors, "author_note": random(2)}))
    assert "base" not in str(error.value)


@pytest.mark.parametrize("form", ["loraloom.adapter.v99", "loraloom.adapter.2", "loraloom.full.2", "other.1"])
def test_a_format_of_a_newer_version_is_refused_with_its_name_and_ours(tmp_path: Path, form: str) -> None:
    record = json.dumps({"format": form, "rank": 2})
    with pytest.raises(UserError, match=f"got '{form}', expected loraloom.adapter.1") as error:
        read_adapter(write(tmp_path / "x.safetensors", lora(STEM), {"loraloom": record}))
    assert "newer loraloom" in (error.value.fix or "")


@pytest.mark.parametrize("size", ["axb", "64", "64x64x64", "0x64"])
def test_a_size_that_is_none_says_how_one_looks(tmp_path: Path, size: str) -> None:
    with pytest.raises(UserError, match="expected WIDTHxHEIGHT in pixels, such as 512x512"):
        read_adapter(write(tmp_path / "x.safetensors", lora(STEM), {"loraloom": json.dumps({"size": size})}))


@pytest.mark.parametrize("end", ["", ".default", ".weight", ".default.weight", ".my_adapter.weight"])
def test_dora_norms_are_read_by_every_name_that_peft_gives_them(tiny_model: Path, tmp_path: Path, end: str) -> None:
    model = opened(tiny_model)
    down, up = pairs_of(model, [LINEAR])[LINEAR]
    start = f"base_model.model.{LINEAR}"
    tensors = {
        f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up, f"{start}.lora_magnitude_vector{end}": random(32).abs(),
    }  # fmt: skip
    updates = read_adapter(write(tmp_path / "x.safetensors", tensors)).updates(model)
    (delta,) = updates.deltas
    assert delta.module == LINEAR
    assert delta.magnitude is not None
    assert delta.requires_base


def test_a_part_without_a_stated_alpha_is_named(tiny_model: Path, tmp_path: Path) -> None:
    """Metadata that states alpha for the text encoder alone got "no alpha in the file"."""
    model = opened(tiny_model)
    tensors: dict[str, torch.Tensor] = {}
    for part, component, name in (("denoiser", "unet", LINEAR), ("text_encoder", "text_encoder", TEXT[0])):
        down, up = pairs_of(model, [name], part)[name]
        stem = f"{component}.{model.lora_format.diffusers_name(part, name)}"
        tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    said = {"lora_adapter_metadata": json.dumps({"text_encoder.r": 3, "text_encoder.lora_alpha": 3})}
    (note,) = read_adapter(write(tmp_path / "x.safetensors", tensors, said)).updates(model).notes
    assert "no alpha in the file for 1 of 2 layers (the denoiser): alpha = rank" in note
