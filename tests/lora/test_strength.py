"""The strength that a file states is used, per part and per layer; what is not understood is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loraloom.lora.files import read_adapter
from loraloom.lora.strength import Stated, parse_config
from loraloom.utils.errors import UserError

from .foreign import ATTENTION, LINEAR, TEXT, changes, kohya, load, pairs_of, write
from .test_exports import opened

RANK = 3


def tensors_of(tiny_model: Path) -> dict[str, Tensor]:
    """One layer of each part, peft names, rank 3."""
    made: dict[str, Tensor] = {}
    for prefix, part, names in (("unet", "denoiser", ATTENTION), ("text_encoder.text_model", "text_encoder", TEXT)):
        for name, (down, up) in pairs_of(opened(tiny_model), names, part, RANK).items():
            made |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    return made


def factors(tiny_model: Path, path: Path, name: str, part: str) -> float:
    """What B A is multiplied by in the model."""
    down, up = pairs_of(opened(tiny_model), ATTENTION if part == "denoiser" else TEXT, part, RANK)[name]
    found, plain = changes(lambda: opened(tiny_model), path, [name], part)[name], up @ down
    factor = float((found * plain).sum() / (plain * plain).sum())
    torch.testing.assert_close(found, factor * plain, atol=1e-5, rtol=1e-4)
    return factor


STATED: list[tuple[str, dict[str, Any], float, float]] = [
    ("one alpha for both", {"unet.r": 3, "unet.lora_alpha": 6, "text_encoder.r": 3,
     "text_encoder.lora_alpha": 6}, 2, 2),
    ("another for each part", {"unet.r": 3, "unet.lora_alpha": 12, "text_encoder.r": 3,
     "text_encoder.lora_alpha": 1.5}, 4, 0.5),
    ("one part alone", {"unet.r": 3, "unet.lora_alpha": 6}, 2, 1),
    ("alpha without a rank", {"unet.lora_alpha": 6, "text_encoder.lora_alpha": 3}, 2, 1),
    ("no part named", {"r": 3, "lora_alpha": 6}, 2, 2),
    ("rsLoRA", {"unet.r": 3, "unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / math.sqrt(3), 1),
    ("by end of name", {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 9}}, 3, 1),
    ("by full name", {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {LINEAR: 9, "to_q": 1}}, 3, 1),
    ("with an anchor", {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {f"^{LINEAR}$": 9}}, 3, 1),
    ("another layer", {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn2.to_q": 9}}, 2, 1),
    ("rank by pattern", {"unet.r": 8, "unet.lora_alpha": 6, "unet.rank_pattern": dict.fromkeys(ATTENTION, 3)}, 2, 1),
    ("text encoder by its full name", {"text_encoder.r": 3, "text_encoder.lora_alpha": 6,
                                       "text_encoder.alpha_pattern": {f"text_model.{TEXT[0]}": 9}}, 1, 3),
]  # fmt: skip


@pytest.mark.parametrize(("said", "unet", "text"), [case[1:] for case in STATED], ids=[case[0] for case in STATED])
def test_the_strength_in_diffusers_metadata_is_used(
    tiny_model: Path, tmp_path: Path, said: dict[str, Any], unet: float, text: float
) -> None:
    path = write(tmp_path / "x.safetensors", tensors_of(tiny_model), {"lora_adapter_metadata": json.dumps(said)})
    assert factors(tiny_model, path, LINEAR, "denoiser") == pytest.approx(unet, rel=1e-4)
    assert factors(tiny_model, path, TEXT[0], "text_encoder") == pytest.approx(text, rel=1e-4)


def test_diffusers_own_metadata_of_a_pattern_and_rslora_is_read(tiny_model: Path, tmp_path: Path) -> None:
    """What `save_lora_weights` writes for a real config of peft, with all its fields."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet")
    unet.add_adapter(
        LoraConfig(
            r=RANK, lora_alpha=8, use_rslora=True, init_lora_weights=False, target_modules=["to_q",
             "to_k", "to_v", "to_out.0"],
            alpha_pattern={"attn2.to_k": 5},
        )
    )  # fmt: skip
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(unet), **_collate_lora_metadata({"unet": unet})
    )
    found = changes(lambda: opened(tiny_model), tmp_path, ATTENTION)
    layers: dict[str, Any] = dict(unet.named_modules())
    for name in ATTENTION:
        torch.testing.assert_close(
            found[name], layers[name].get_delta_weight("default"), atol=1e-5, rtol=1e-5, msg=name
        )


def test_the_alpha_of_each_layer_counts_before_the_files(tiny_model: Path, tmp_path: Path) -> None:
    made = pairs_of(opened(tiny_model), ATTENTION, rank=RANK)
    tensors: dict[str, Tensor] = {}
    for number, (name, (down, up)) in enumerate(made.items()):
        tensors |= {f"{kohya(name)}.lora_down.weight": down, f"{kohya(name)}.lora_up.weight": up}
        if number < 2:
            tensors[f"{kohya(name)}.alpha"] = torch.tensor([6.0]) if number else torch.tensor(6, dtype=torch.int64)
    path = write(tmp_path / "x.safetensors", tensors, {"ss_network_alpha": "1.5"})
    names = list(made)
    assert [factors(tiny_model, path, name, "denoiser") for name in (*names[:2], names[5])] == pytest.approx(
        [2, 2, 0.5], rel=1e-4
    )
    assert not read_adapter(path).updates(opened(tiny_model)).notes


def test_a_file_that_states_no_alpha_is_read_with_alpha_equal_to_rank_and_says_so_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", tensors_of(tiny_model))
    assert factors(tiny_model, path, LINEAR, "denoiser") == pytest.approx(1, rel=1e-4)
    notes = read_adapter(path).updates(opened(tiny_model)).notes
    assert len(notes) == 1
    assert "no alpha in the file: alpha = rank" in notes[0]
    part = write(
        tmp_path / "y.safetensors", tensors_of(tiny_model), {"lora_adapter_metadata": '{"unet.lora_alpha": 6}'}
    )
    assert "for 3 of 11 layers" in read_adapter(part).updates(opened(tiny_model)).notes[0]


REFUSED: dict[str, tuple[Any, str]] = {
    "alpha as text": ({"unet.lora_alpha": "8"}, "alpha"),
    "alpha as a list": ({"unet.lora_alpha": [8]}, "alpha"),
    "alpha as a bool": ({"unet.lora_alpha": True}, "alpha"),
    "alpha below zero": ({"unet.lora_alpha": -8}, "alpha"),
    "alpha zero": ({"unet.lora_alpha": 0}, "alpha"),
    "rsLoRA as a number": ({"unet.use_rslora": 1}, "use_rslora"),
    "another rank than the tensors'": ({"unet.r": 4, "unet.lora_alpha": 8}, "states another rank"),
    "a pattern that is an expression": ({"unet.alpha_pattern": {"(a+)+$": 3}}, "not a module's name"),
    "a pattern of text": ({"unet.alpha_pattern": {"to_q": "3"}}, "alpha_pattern"),
    "PiSSA": ({"unet.init_lora_weights": "pissa"}, "changed the base's weights too"),
    "PiSSA with steps": ({"unet.init_lora_weights": "pissa_niter_4"}, "changed the base's weights too"),
    "transposed layers": ({"unet.fan_in_fan_out": True}, "'fan_in_fan_out' is not understood"),
    "repeated layers": ({"unet.layer_replication": [[0, 4]]}, "'layer_replication' is not understood"),
    "a field of the future": ({"unet.lora_warp": 2.0}, "'lora_warp' is not understood"),
    "another method": ({"unet.peft_type": "VERA"}, "is not read"),
    "DoRA without norms": ({"unet.use_dora": True}, "states DoRA and holds no norms"),
    "a list": ([1, 2], "not a JSON object"),
    "a number": (3, "not a JSON object"),
}


@pytest.mark.parametrize(("said", "match"), REFUSED.values(), ids=REFUSED)
def test_a_strength_that_is_not_understood_is_refused_not_replaced(
    tiny_model: Path, tmp_path: Path, said: Any, match: str
) -> None:
    path = write(tmp_path / "x.safetensors", tensors_of(tiny_model), {"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(UserError, match=match):
        load(opened(tiny_model), path)


@pytest.mark.parametrize("text", ["-4", "0", "nan", "inf", "1e400", "four", "[4]", "{}"])
def test_an_alpha_of_sd_scripts_that_is_no_positive_number_is_refused(
    tiny_model: Path, tmp_path: Path, text: str
) -> None:
    path = write(tmp_path / "x.safetensors", tensors_of(tiny_model), {"ss_network_alpha": text})
    with pytest.raises(UserError, match="ss_network_alpha"):
        read_adapter(path)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, math.nan, math.inf])
def test_a_layers_alpha_that_is_no_positive_number_is_refused(tiny_model: Path, tmp_path: Path, alpha: float) -> None:
    down, up = pairs_of(opened(tiny_model), [LINEAR])[LINEAR]
    stem = kohya(LINEAR)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
    with pytest.raises(UserError, match=r"alpha.*expected a positive number|holds NaN or infinity"):
        load(opened(tiny_model), write(tmp_path / "x.safetensors", tensors))


@given(rank=st.integers(1, 4096), alpha=st.floats(1e-3, 1e6), rslora=st.booleans())
def test_alpha_over_the_rank_or_its_root(rank: int, alpha: float, rslora: bool) -> None:
    stated = parse_config({"r": rank, "lora_alpha": alpha, "use_rslora": rslora}, "x")
    expected = alpha / (rank**0.5 if rslora else rank)
    assert stated.factor(("a.b",), rank, "x") == pytest.approx(expected)
    assert Stated(alpha=alpha).factor(("a.b",), rank, "x") == pytest.approx(alpha / rank)
