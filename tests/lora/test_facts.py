"""What is said of an adapter file without a model, and what becomes of each of its keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom.lora.facts import read_facts
from loraloom.lora.fates import check_file
from loraloom.lora.tool_input import read_input
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

from .foreign import ATTENTION, LINEAR, TEXT, kohya, pairs_of, random, write
from .test_exports import opened
from .test_hostile_adapters import KINDS, SAMPLE, Make
from .test_tools import kohya_file, saved, two_files


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> DiffusionModel:
    return opened(tiny_model)


def test_parts_ranks_and_strength_are_told_without_a_model(model: DiffusionModel, tmp_path: Path) -> None:
    _, second = two_files(model, tmp_path)
    facts = read_facts(second)
    assert [(part.name, part.layers, dict(part.ranks), dict(part.factors)) for part in facts.parts] == [
        ("denoiser", len(ATTENTION) - 2, {5: len(ATTENTION) - 2}, {0.8: len(ATTENTION) - 2}),
        ("text encoder", len(TEXT), {2: len(TEXT)}, {2.0: len(TEXT)}),
    ]
    assert facts.key_format.startswith("kohya")
    assert facts.training == {"steps": "12"}
    assert not facts.faults
    assert not facts.non_finite


def test_trigger_words_base_and_tags_of_every_program_are_told(tmp_path: Path) -> None:
    pair = {f"unet.{LINEAR}.lora_A.weight": random(2, 32), f"unet.{LINEAR}.lora_B.weight": random(32, 2)}
    record = {
        "format": "loraloom.adapter.1",
        "trigger": "sks",
        "base": {"source": "models/sd15"},
        "alpha": 4.0,
        "rank": 2,
    }
    tags = {"10_a": {"cat ": 3, "dog": 1}, "5_b": {"dog": 7}, "broken": 3}
    metadata = {
        "loraloom": json.dumps(record),
        "modelspec.trigger_phrase": "wcstyle",
        "ss_tag_frequency": json.dumps(tags),
        "ss_base_model_version": "sd_v1",
        "x.y": "z",
    }
    facts = read_facts(write(tmp_path / "x.safetensors", pair, metadata))
    assert facts.triggers == ("sks", "wcstyle")
    assert list(facts.tags.items()) == [("dog", 8), ("cat", 3)]
    assert "models/sd15" in facts.base
    assert "sd_v1" in facts.base
    assert facts.other_metadata == ("x.y",)
    assert dict(facts.parts[0].factors) == {2.0: 1}


def test_a_file_with_nan_is_described_and_the_tensor_named(tmp_path: Path) -> None:
    bad = f"unet.{LINEAR}.lora_A.weight"
    path = write(
        tmp_path / "x.safetensors", {bad: torch.full((2, 32), torch.nan), f"unet.{LINEAR}.lora_B.weight": random(32, 2)}
    )
    assert read_facts(path).non_finite == (bad,)
    error = check_file(path, None).error
    assert error is not None
    assert "NaN" in str(error)


@pytest.mark.parametrize(
    ("name", "make"),
    [pytest.param(name, make, id=name[:60]) for number, (name, make) in enumerate(KINDS) if number % (3 * SAMPLE) == 1],
)
def test_a_hostile_file_is_described_or_refused_in_a_sentence(tmp_path: Path, name: str, make: Make) -> None:
    """`info` looks at files that would be refused: it must not fall over them."""
    place = make(tmp_path)
    try:
        facts = read_facts(place)
    except UserError as error:
        assert len(str(error)) < 1500
    else:
        assert facts.tensors >= 0


STEPS: list[Any] = [
    3,
    "x",
    {},
    [None, 3, {}],
    [{"tool": 3, "inputs": "x"}],
    [{"inputs": [3, {"file": None}], "error": True}],
    [{"tool": "\x1b[2J", "settings": {"a": "\n"}, "error": 1e308}],
]


@pytest.mark.parametrize("steps", STEPS, ids=[json.dumps(steps)[:30] for steps in STEPS])
def test_a_history_that_is_none_is_told_without_harm(tmp_path: Path, steps: Any) -> None:
    pair = {f"unet.{LINEAR}.lora_A.weight": random(2, 32), f"unet.{LINEAR}.lora_B.weight": random(32, 2)}
    record = json.dumps({"format": "loraloom.adapter.1", "made_by": steps})
    facts = read_facts(write(tmp_path / "x.safetensors", pair, {"loraloom": record}))
    assert all(line.isprintable() and len(line) < 1000 for line in facts.made_by)
    one = read_input(facts.path, None)
    again = saved(one.layers, tmp_path / "y.safetensors", [one], key_format="diffusers")
    assert read_facts(again).made_by[-1].startswith("loraloom ")


# -------------------------------------------------------------------------------------------------------------- fates


def lora(name: str, rank: int = 2, into: int = 32, out: int = 32) -> dict[str, Tensor]:
    stem = kohya(name)
    return {f"{stem}.lora_down.weight": random(rank, into), f"{stem}.lora_up.weight": random(out, rank)}


def without_up(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("lora_up.weight")}


UNUSED: list[tuple[str, Callable[[], dict[str, Tensor]], str]] = [
    ("a layer that the model lacks", lambda: lora("down_blocks.9.x"), "no layer lora_unet_down_blocks_9_x"),
    ("half a pair", lambda: without_up(lora(ATTENTION[1])), "half a layer"),
    ("another size", lambda: lora(ATTENTION[1], into=31), "does not fit the layer's weight"),
    ("an unknown kind", lambda: {"x.y.strange": random(2, 2)}, "a kind that is not known"),
    ("a hypernetwork", lambda: {"768.0.linear.0.weight": random(4, 4)}, "hypernetwork"),
    ("the layer once more", lambda: {f"unet.{LINEAR}.lora_A.weight": random(2, 32)}, "the layer has"),
]


@pytest.mark.parametrize(("name", "more", "why"), UNUSED, ids=[name for name, _, _ in UNUSED])
def test_every_key_has_a_fate_and_an_unused_one_its_reason(
    model: DiffusionModel, tmp_path: Path, name: str, more: Callable[[], dict[str, Tensor]], why: str
) -> None:
    tensors = {**lora(LINEAR), **more()}
    checked = check_file(write(tmp_path / "x.safetensors", tensors), model)
    assert {fate.key for fate in checked.fates} == tensors.keys()
    for fate in checked.fates:
        assert fate.used == (fate.key in lora(LINEAR)), fate
        assert fate.used or why in fate.why
    assert checked.error is not None


def test_a_whole_file_is_used_and_the_layers_named(model: DiffusionModel, tmp_path: Path) -> None:
    path = kohya_file(tmp_path / "x.safetensors", pairs_of(model, ATTENTION), 2.0)
    checked = check_file(path, model)
    assert checked.error is None
    assert all(fate.used for fate in checked.fates)
    assert {fate.where for fate in checked.fates} == {f"denoiser {name}" for name in ATTENTION}
    assert check_file(path, None).error is None


def test_a_loha_is_checked_without_a_model(tmp_path: Path) -> None:
    stem = kohya(LINEAR)
    tensors: dict[str, Any] = {
        f"{stem}.hada_w{n}_{x}": random(*((32, 2) if x == "a" else (2, 32))) for n in "12" for x in "ab"
    }
    checked = check_file(write(tmp_path / "x.safetensors", tensors), None)
    assert checked.error is None
    assert all(fate.used for fate in checked.fates)
    assert dict(read_facts(tmp_path / "x.safetensors").parts[0].kinds) == {"LoHa": 1}
