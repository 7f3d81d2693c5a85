"""Checkpoints of one file of the flow families open as the same model as their diffusers folder."""

import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraloom import plugins
from loraloom.extensions.families.flux.lora_format import TENSORS as FLUX_TENSORS
from loraloom.extensions.families.flux.tiny import build_tiny as build_flux
from loraloom.extensions.families.flux2_klein.tiny import build_tiny as build_klein
from loraloom.extensions.families.sd3.tiny import build_tiny as build_sd3
from loraloom.extensions.families.z_image.tiny import build_tiny as build_z_image
from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

from .test_single_file import as_convolution, renamed, vae_rules

Rules = list[tuple[str, str]]
State = dict[str, Tensor]

_BFL: Rules = [
    (r"x_embedder", "img_in"),
    (r"context_embedder", "txt_in"),
    (r"time(?:_text|_guidance)_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
    (r"time(?:_text|_guidance)_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
    (r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
    (r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
    (r"(double|single)_stream_modulation(.*)\.linear", r"\1_stream_modulation\2.lin"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_(q|k)\.weight", r"single_blocks.\1.norm.\2_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
    (r"^single_transformer_blocks\.(\d+)\.(proj_out|attn\.to_out)\.", r"single_blocks.\1.linear2."),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.lin"),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.lin"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_(q|k)\.weight", r"double_blocks.\1.img_attn.norm.\2_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_(q|k)\.weight", r"double_blocks.\1.txt_attn.norm.\2_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
    (r"^transformer_blocks\.(\d+)\.ff\.(net\.0\.proj|linear_in)", r"double_blocks.\1.img_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff\.(net\.2|linear_out)", r"double_blocks.\1.img_mlp.2"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.(net\.0\.proj|linear_in)", r"double_blocks.\1.txt_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.(net\.2|linear_out)", r"double_blocks.\1.txt_mlp.2"),
    (r"\.q_norm\.scale", ".query_norm.scale"),
    (r"\.k_norm\.scale", ".key_norm.scale"),
]
_SD3: Rules = [
    (r"^pos_embed\.pos_embed", "pos_embed"),
    (r"^pos_embed\.proj", "x_embedder.proj"),
    (r"^time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
    (r"^time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear", r"joint_blocks.\1.x_block.adaLN_modulation.1"),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear", r"joint_blocks.\1.context_block.adaLN_modulation.1"),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.norm_(q|k)\.", r"joint_blocks.\1.x_block.\2.ln_\3."),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_(q|k)\.", r"joint_blocks.\1.context_block.attn.ln_\2."),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out", r"joint_blocks.\1.context_block.attn.proj"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"joint_blocks.\1.x_block.mlp.fc1"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2", r"joint_blocks.\1.x_block.mlp.fc2"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"joint_blocks.\1.context_block.mlp.fc1"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2", r"joint_blocks.\1.context_block.mlp.fc2"),
]
_Z_IMAGE: Rules = [
    (r"all_(x_embedder|final_layer)\.2-1", r"\1"),
    (r"\.attention\.norm_(q|k)", r".attention.\1_norm"),
    (r"\.attention\.to_out\.0", ".attention.out"),
]
_QKV = ("to_q", "to_k", "to_v")
_SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
FUSED: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "flux": [
        (r"single_transformer_blocks\.(\d+)\.", _SINGLE, "single_blocks.{}.linear1"),
        (r"transformer_blocks\.(\d+)\.attn\.", _QKV, "double_blocks.{}.img_attn.qkv"),
        (r"transformer_blocks\.(\d+)\.attn\.", _ADDED, "double_blocks.{}.txt_attn.qkv"),
    ],
    "flux2_klein": [
        (r"transformer_blocks\.(\d+)\.attn\.", _QKV, "double_blocks.{}.img_attn.qkv"),
        (r"transformer_blocks\.(\d+)\.attn\.", _ADDED, "double_blocks.{}.txt_attn.qkv"),
    ],
    "sd3": [
        (r"transformer_blocks\.(\d+)\.attn\.", _QKV, "joint_blocks.{}.x_block.attn.qkv"),
        (r"transformer_blocks\.(\d+)\.attn\.", _ADDED, "joint_blocks.{}.context_block.attn.qkv"),
        (r"transformer_blocks\.(\d+)\.attn2\.", _QKV, "joint_blocks.{}.x_block.attn2.qkv"),
    ],
    "z_image": [(r"(.+\.attention)\.", _QKV, "{}.qkv")],
}  # fmt: skip
RULES = {"flux": _BFL, "flux2_klein": _BFL, "sd3": _SD3, "z_image": _Z_IMAGE}
BUILD: dict[str, Callable[..., Path]] = {
    "flux": build_flux, "flux2_klein": build_klein, "sd3": build_sd3, "z_image": build_z_image,
}  # fmt: skip
CONVERT: dict[str, Callable[[State], State]] = {
    "flux2_klein": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "sd3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "z_image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
}
FAMILIES = tuple(RULES)


def native(name: str, state: Mapping[str, Tensor]) -> State:
    """A denoiser in the original code's names, by rules that are written here."""
    left, made = dict(state), State()
    for pattern, members, theirs in FUSED[name]:
        found: dict[tuple[str, str], State] = {}
        for key in list(left):
            if (match := re.fullmatch(rf"{pattern}({'|'.join(members)})\.(weight|bias)", key)) is not None:
                found.setdefault((match[1], match[3]), {})[match[2]] = left.pop(key)
        for (number, leaf), tensors in found.items():
            made[f"{theirs.format(number)}.{leaf}"] = torch.cat([tensors[member] for member in members])
    last = f"joint_blocks.{max([0, *(int(m[1]) for key in state if (m := re.match(r'transformer_blocks.([0-9]+)', key)))])}"
    for key, tensor in left.items():
        new = key
        for pattern, theirs in RULES[name]:
            new = re.sub(pattern, theirs, new)
        swapped = "final_layer.adaLN" in new or new.startswith(f"{last}.context_block.adaLN")
        made[new] = torch.cat(tensor.chunk(2)[::-1]) if swapped and name != "z_image" else tensor
    return made


def transformer(folder: Path) -> State:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("flow")
    return {name: build(root / name / "model", seed=4) for name, build in BUILD.items()}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(name: str, folders: Mapping[str, Path]) -> Path:
    return folders[name]


def write(folder: Path, name: str, file: Path, prefix: str = "", **others: Tensor) -> Path:
    tensors = {f"{prefix}{key}": tensor.contiguous() for key, tensor in native(name, transformer(folder)).items()}
    save_file({**tensors, **others}, file)
    return file


def opened(location: Path, config: Path | None = None, *options: str, **values: Any) -> DiffusionModel:
    source = ModelSource(location=str(location), config=str(config) if config else None, options=options, **values)
    return open_model(source)


def latents(model: DiffusionModel) -> tuple[Tensor, Callable[[], Tensor]]:
    """Ours, and the pipeline's."""
    wanted = ImageRequest(
        prompt="a plan", seed=2, num_steps=2, guidance_scale=1.0, sampler="euler", width=32, height=32
    )
    noise = first_noise(model, wanted)
    encoder = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))
    return denoise(model, encoder.encode, [wanted], noise_bchw=noise), partial(
        model.reference_latents, None, wanted, noise
    )


def same_weights(got: DiffusionModel, expected: DiffusionModel, part: str = "denoiser") -> None:
    state = got.modules.get(part).state_dict()
    wanted = expected.modules.get(part).state_dict()
    assert state.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_checkpoint_has_the_denoiser_of_its_folder(prefix: str, name: str, folder: Path, tmp_path: Path) -> None:
    model = opened(write(folder, name, tmp_path / "x.safetensors", prefix), folder)
    assert model.info.family == name
    same_weights(model, opened(folder))
    ours, theirs = latents(model)
    torch.testing.assert_close(ours, latents(opened(folder))[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, theirs(), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", CONVERT)
def test_the_names_of_a_checkpoint_are_those_that_diffusers_converts(family: str, folders: Mapping[str, Path]) -> None:
    state = transformer(folders[family])
    converted = CONVERT[family](native(family, state))
    assert converted.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(converted[key], tensor), key


def test_the_names_of_a_flux_checkpoint_are_those_that_diffusers_converts(folders: Mapping[str, Path]) -> None:
    """Its converter knows one width only: rows as there, a few columns."""
    numbers = torch.Generator().manual_seed(0)
    given = native("flux", transformer(folders["flux"]))
    for key in given:
        if "linear1" in key:
            given[key] = torch.randn(7 * 3072, *given[key].shape[1:], generator=numbers)
    converted = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(dict(given))
    pieces = FLUX_TENSORS.pieces({key: tuple(tensor.shape) for key, tensor in converted.items()})
    for key, tensor in converted.items():
        piece = pieces[key]
        ours = given[piece.name][slice(*(piece.rows or (None,)))]
        assert torch.equal(torch.cat(ours.chunk(2)[::-1]) if piece.swapped else ours, tensor), key


# ------------------------------------------------------------------------------------------------------- other parts


def ldm_vae(folder: Path) -> State:
    made: State = {}
    for key, tensor in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        new = renamed(key, vae_rules(4)) if not key.startswith("bn.") else key
        made[new] = as_convolution(new, tensor).contiguous()
    return made


def test_a_checkpoint_with_encoders_and_vae_needs_configs_and_tokenizers_only(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = folders["sd3"]
    held: State = {f"first_stage_model.{key}": tensor for key, tensor in ldm_vae(folder).items()}
    for part, prefix in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl")):
        for key, tensor in load_file(folder / part / "model.safetensors").items():
            held[f"text_encoders.{prefix}.transformer.{key}"] = tensor
    file = write(folder, "sd3", tmp_path / "sd3_incl_clips.safetensors", "model.diffusion_model.", **held)
    bare = shutil.copytree(folder, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    model, expected = opened(file, bare), opened(folder)
    for part in ("denoiser", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        same_weights(model, expected, part)
    ours, theirs = latents(model)
    torch.testing.assert_close(ours, latents(expected)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, theirs(), atol=2e-4, rtol=1e-4)
    model.save(tmp_path / "saved", "fp32")
    same_weights(opened(tmp_path / "saved"), expected, "vae")


@pytest.mark.parametrize("family", ["flux", "z_image", "flux2_klein"])
def test_parts_come_from_the_files_that_options_name(family: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = folders[family]
    file = write(folder, family, tmp_path / "dit.safetensors")
    save_file(ldm_vae(folder), tmp_path / "ae.safetensors")
    bare = shutil.copytree(folder, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    encoders = [part.name for part in opened(folder).info.text_encoders]
    options = [f"vae_file={tmp_path / 'ae.safetensors'}"]
    for part in encoders:
        shutil.copy(folder / part / "model.safetensors", tmp_path / f"{part}.safetensors")
        options.append(f"{part}_file={tmp_path / f'{part}.safetensors'}")
    model, expected = opened(file, bare, *options), opened(folder)
    for part in ("vae", *encoders):
        same_weights(model, expected, part)
    raw = torch.randn(1, model.info.latent_channels, 4, 4)
    torch.testing.assert_close(model.scale_latents(raw), expected.scale_latents(raw))
    assert model.modules.fingerprint("vae") != expected.modules.fingerprint("vae")  # other files, other caches
    for part in ("vae", *encoders):
        fewer = [option for option in options if not option.startswith(f"{part}_file")]
        with pytest.raises(UserError, match=rf"dit.safetensors holds no {part},(.|\n)*{part}_file=FILE"):
            opened(file, bare, *fewer)


def test_a_language_model_is_read_with_and_without_the_name_of_its_head(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    """ComfyUI's qwen_3_4b.safetensors begins every name with `model.`; the class of Z-Image's encoder does not."""
    folder = folders["z_image"]
    state = load_file(folder / "text_encoder" / "model.safetensors")
    assert not any(key.startswith("model.") for key in state)
    save_file({f"model.{key}": tensor for key, tensor in state.items()}, tmp_path / "qwen.safetensors")
    file = write(folder, "z_image", tmp_path / "z_image.safetensors")
    model = opened(file, folder, f"text_encoder_file={tmp_path / 'qwen.safetensors'}")
    same_weights(model, opened(folder), "text_encoder")


def test_without_a_folder_the_user_is_told_to_name_one(folders: Mapping[str, Path], tmp_path: Path) -> None:
    file = write(folders["flux"], "flux", tmp_path / "dit.safetensors")
    with pytest.raises(UserError, match=r"holds a denoiser(.|\n)*FLUX.1-dev(.|\n)*--model-config"):
        opened(file)


def test_a_file_that_is_not_the_part_is_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = folders["flux"]
    file = write(folder, "flux", tmp_path / "dit.safetensors")
    save_file(ldm_vae(folder), tmp_path / "ae.safetensors")
    model = opened(file, folder, f"text_encoder_file={tmp_path / 'ae.safetensors'}")
    with pytest.raises(UserError, match="not the text_encoder that the config describes"):
        model.modules.get("text_encoder")
    with pytest.raises(UserError, match="no such weight file"):
        opened(file, folder, "vae_file=nowhere.safetensors")


def test_a_folder_of_another_model_is_refused_when_the_checkpoint_is_opened(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    file = write(folders["flux"], "flux", tmp_path / "dit.safetensors")
    with pytest.raises(UserError, match=r"folder of the other parts is not a FLUX\.1(.|\n)*--model-config"):
        opened(file, folders["sd3"])
    schnell = build_flux(tmp_path / "schnell", schnell=True)
    with pytest.raises(UserError, match=r"is of the kind of FLUX\.1 dev"):
        opened(file, schnell)
    state = native("flux", transformer(folders["flux"]))
    for change, reason in (
        ({"img_in.weight": torch.zeros(32, 20)}, "img_in.weight of shape"),
        ({"control_in.weight": torch.zeros(2)}, "control_in.weight, which the config does not have"),
        ({"single_blocks.0.linear1.weight": torch.zeros(999, 32)}, "single_blocks.0.linear1.weight of shape"),
        ({"img_in.weight": torch.zeros(32, 16, dtype=torch.uint8)}, "stored as U8"),
    ):
        save_file({**state, **change}, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match=reason):
            opened(tmp_path / "other.safetensors", folders["flux"])
    save_file({key: value for key, value in state.items() if key != "txt_in.bias"}, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"no such tensor(.|\n)*txt_in.bias"):
        opened(tmp_path / "less.safetensors", folders["flux"])


# ------------------------------------------------------------------------------------------------------------ 8 bits


@pytest.mark.parametrize("scales", ["none", "scale_weight", "weight_scale", "of outputs"])
def test_an_8_bit_checkpoint_is_read_as_the_numbers_that_it_means(
    scales: str, name: str, folder: Path, tmp_path: Path
) -> None:
    """The checkpoint's numbers, in float32, written as a folder: both models have the same weights."""
    state, stored, meant = native(name, transformer(folder)), State(), State()
    for key, tensor in state.items():
        stored[key] = meant[key] = tensor
        if not key.endswith(".weight") or tensor.dim() != 2 or ("blocks" not in key and "layers" not in key):
            continue
        scale = torch.tensor(1.0)
        if scales == "of outputs":
            scale = tensor.abs().amax(1, keepdim=True) / 448
        elif scales != "none":
            scale = tensor.abs().max() / 448
        codes = (tensor / scale).to(torch.float8_e4m3fn)
        stored[key], meant[key] = codes, codes.float() * scale
        layer = key.removesuffix(".weight")
        if scales != "none":
            stored[f"{layer}.{'weight_scale' if scales == 'of outputs' else scales}"] = scale
            stored[f"{layer}.scale_input"] = torch.tensor(1.0)
    save_file({key: one.contiguous() for key, one in stored.items()}, tmp_path / "fp8.safetensors")
    save_file({key: one.contiguous() for key, one in meant.items()}, tmp_path / "fp32.safetensors")
    got, expected = opened(tmp_path / "fp8.safetensors", folder), opened(tmp_path / "fp32.safetensors", folder)
    same_weights(got, expected)
    assert {weight.dtype for weight in got.modules.get("denoiser").parameters()} == {torch.float32}


def test_8_bits_in_a_format_that_is_not_read_are_refused_with_the_reason(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = folders["flux"]
    state = native("flux", transformer(folder))
    layer = "double_blocks.0.img_attn.proj"
    codes = state[f"{layer}.weight"].to(torch.float8_e4m3fn)
    blocks = {**state, f"{layer}.weight": codes, f"{layer}.weight_scale": torch.ones(5)}
    save_file(blocks, tmp_path / "blocks.safetensors")
    with pytest.raises(UserError, match="holds 5 scales"):
        opened(tmp_path / "blocks.safetensors", folder)
    mark = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file({**state, f"{layer}.weight": codes, f"{layer}.comfy_quant": mark}, tmp_path / "marked.safetensors")
    with pytest.raises(UserError, match=r"format that is not read(.|\n)*nvfp4"):
        opened(tmp_path / "marked.safetensors", folder)


# ------------------------------------------------------------------------------------------------------- in low bits


@pytest.mark.parametrize("single", [False, True])
def test_a_denoiser_read_in_low_bits_has_the_codes_of_one_that_is_stored_later(
    single: bool, name: str, folder: Path, tmp_path: Path
) -> None:
    from loraloom.models.low_bits import store

    file = write(folder, name, tmp_path / "x.safetensors")
    model = opened(file, folder) if single else opened(folder)
    model.modules.read_in_low_bits("denoiser", "nf4")
    later = opened(folder)
    assert store(later.modules.get("denoiser"), "nf4") > 0
    same_weights(model, later)
