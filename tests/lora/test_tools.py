"""The tools for adapter files: what they write does what was asked for, and states what was lost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from loraloom.lora.blend import Scale
from loraloom.lora.extracting import extract
from loraloom.lora.files import read_adapter
from loraloom.lora.inject import base_layers
from loraloom.lora.layers import LoraLayer
from loraloom.lora.low_rank import (
    Place,
    RankLimit,
    Truncated,
    approximate,
    concatenate,
    difference,
    total_error,
    truncate,
)
from loraloom.lora.merging import MergeSettings, merge_layers
from loraloom.lora.tool_input import ToolInput, parse_place, read_input
from loraloom.lora.tool_output import Origin, metadata_of, write_lora
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

from .foreign import ATTENTION, CONVOLUTION, LINEAR, TEXT, changes, kohya, load, pairs_of, random, weight_of, write
from .test_exports import REQUEST, drawn, first_noise, opened

HERE = ("denoiser", "layer")


def layer(out: int, into: int, rank: int, *, kernel: int = 0, alpha: float = 3.0, seed: int = 0) -> LoraLayer:
    size, one = ((kernel, kernel), (1, 1)) if kernel else ((), ())
    down, up = random(rank, into, *size, seed=seed), random(out, rank, *one, seed=seed + 1)
    return LoraLayer(part=HERE[0], module=HERE[1], down=down, up=up, alpha=alpha)


def product(one: LoraLayer) -> Tensor:
    """The change of the weight as a matrix, float64."""
    return one.up.flatten(1).double() @ one.down.flatten(1).double() * one.factor


def kohya_file(path: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], alpha: float, text: Any = None) -> Path:
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        stem = kohya(name)
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    for name, (down, up) in (text or {}).items():
        stem = kohya(f"text_model.{name}", "lora_te")
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    return write(path, tensors, {"ss_network_dim": "4", "ss_network_alpha": str(alpha), "ss_steps": "12"})


def two_files(model: DiffusionModel, folder: Path) -> tuple[Path, Path]:
    """Two LoRAs of other ranks that share some layers, the second with a text encoder."""
    first = kohya_file(folder / "first.safetensors", pairs_of(model, ATTENTION[:5], rank=3), 2.0)
    shifted = {name: (down + 0.1, up - 0.05) for name, (down, up) in pairs_of(model, ATTENTION[2:], rank=5).items()}
    text = pairs_of(model, TEXT, "text_encoder", rank=2)
    return first, kohya_file(folder / "second.safetensors", shifted, 4.0, text)


def saved(
    found: Mapping[Place, LoraLayer],
    out: Path,
    inputs: list[ToolInput],
    model: DiffusionModel | None = None,
    **how: str,
) -> Path:
    origin = Origin(tool="test", inputs=inputs, settings={})
    how = {"key_format": "kohya", "dtype": "fp32", **how}
    return write_lora(model, found, out, metadata=metadata_of(model, found, origin, "x"), **how).path


def layers_of(found: list[Truncated]) -> dict[Place, LoraLayer]:
    return {one.place: one.layer for one in found}


# -------------------------------------------------------------------------------------------------------------- SVD


def plain_svd(matrix: Tensor, rank: int) -> Tensor:
    """The formula of sd-scripts' resize_lora.py: the whole change, its SVD, the first singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]


@given(
    out=st.integers(1, 12), into=st.integers(1, 12), rank=st.integers(1, 9), kept=st.integers(1, 9),
    kernel=st.sampled_from([0, 1, 3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_smaller_rank_is_the_truncated_svd_of_the_whole_change(
    out: int, into: int, rank: int, kept: int, kernel: int, seed: int
) -> None:
    one = layer(out, into, rank, kernel=kernel, seed=seed)
    whole = product(one)
    expected = plain_svd(whole, kept)
    for found in (
        truncate(one, RankLimit(rank=kept)),
        approximate(HERE, whole.reshape(out, into, *[kernel] * (2 if kernel else 0)), RankLimit(rank=kept)),
    ):
        assert found.layer.rank <= kept or found.layer is one
        assert found.layer.down.shape[1:] == one.down.shape[1:]
        torch.testing.assert_close(product(found.layer), expected, atol=1e-5, rtol=1e-4)
        assert found.error == pytest.approx(float((whole - expected).norm()), abs=1e-5)
        assert found.norm == pytest.approx(float(whole.norm()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9, 0.99])
def test_an_error_gives_the_rank_of_kohyas_frobenius_rule(kept: float) -> None:
    """resize_lora.py `index_sv_fro`: the first index at which the share of the Frobenius norm is reached."""
    one = layer(20, 30, 12)
    values = torch.linalg.svdvals(product(one))
    shares = values.square().cumsum(0) / values.square().sum()
    rank = int(torch.searchsorted(shares, kept**2)) + 1
    found = truncate(one, RankLimit(error=(1 - kept**2) ** 0.5))
    assert found.layer.rank == rank
    assert found.relative <= (1 - kept**2) ** 0.5


def test_the_error_of_all_layers_is_that_of_the_whole_change() -> None:
    ones = [layer(10, 20, 6, seed=seed) for seed in range(3)]
    found = [truncate(one, RankLimit(rank=2)) for one in ones]
    whole = torch.cat([product(one).flatten() for one in ones])
    now = torch.cat([product(one.layer).flatten() for one in found])
    assert total_error(found) == pytest.approx(float((whole - now).norm() / whole.norm()), rel=1e-5)


def test_a_layer_that_learned_nothing_keeps_rank_1_and_has_no_error() -> None:
    one = layer(6, 7, 4)
    zero = LoraLayer(part=one.part, module=one.module, down=one.down, up=torch.zeros_like(one.up), alpha=1.0)
    found = truncate(zero, RankLimit(rank=2))
    assert (found.layer.rank, found.relative) == (1, 0.0)
    assert not product(found.layer).any()


# ------------------------------------------------------------------------------------------------------------ merging


@given(scales=st.tuples(*[st.floats(-2, 2)] * 3), ranks=st.tuples(*[st.integers(1, 5)] * 3))
def test_a_concatenation_is_the_weighted_sum(scales: tuple[float, ...], ranks: tuple[int, ...]) -> None:
    ones = [layer(6, 8, rank, alpha=2.0 + rank, seed=rank) for rank in ranks]
    found = concatenate(list(zip(ones, scales, strict=True)))
    expected = sum(scale * product(one) for one, scale in zip(ones, scales, strict=True))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(product(found), expected, atol=1e-5, rtol=1e-5)
    assert found.rank == sum(ranks)


@pytest.mark.parametrize("with_model", [False, True], ids=["by the files' own names", "by the model's names"])
def test_a_merge_by_sum_changes_weights_as_both_files_together(
    tiny_model: Path, tmp_path: Path, with_model: bool
) -> None:
    model = opened(tiny_model)
    first, second = two_files(model, tmp_path)
    named = model if with_model else None
    inputs = [read_input(first, named, 0.6), read_input(second, named, -0.4)]
    found = layers_of(merge_layers(inputs, MergeSettings(), named))
    merged = saved(found, tmp_path / "merged.safetensors", inputs, named)
    for part, names in (("denoiser", ATTENTION), ("text_encoder", TEXT)):
        now = changes(lambda: opened(tiny_model), merged, names, part)
        mine = changes(lambda: opened(tiny_model), first, names, part, 0.6)
        other = changes(lambda: opened(tiny_model), second, names, part, -0.4)
        for name in names:
            torch.testing.assert_close(now[name], mine[name] + other[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("method", ["sum", "svd"])
def test_a_merge_with_scales_by_block_changes_weights_as_the_same_scales_do_in_generation(
    tiny_model: Path, tmp_path: Path, method: str
) -> None:
    model = opened(tiny_model)
    first, second = two_files(model, tmp_path)
    scales: list[Scale] = [{ATTENTION[0]: 0.0, "*": 0.6}, {"text_encoder": -0.5, "denoiser": 0.3}]
    inputs = [read_input(path, model, scale) for path, scale in zip((first, second), scales, strict=True)]
    limit = RankLimit() if method == "sum" else RankLimit(rank=64)
    found = layers_of(merge_layers(inputs, MergeSettings(method=method, limit=limit), model))
    merged = saved(found, tmp_path / "merged.safetensors", inputs, model)
    for part, names in (("denoiser", ATTENTION), ("text_encoder", TEXT)):
        now = changes(lambda: opened(tiny_model), merged, names, part)
        mine = changes(lambda: opened(tiny_model), first, names, part, scales[0])
        other = changes(lambda: opened(tiny_model), second, names, part, scales[1])
        for name in names:
            torch.testing.assert_close(now[name], mine[name] + other[name], atol=1e-5, rtol=1e-4, msg=name)
    made_by = read_adapter(merged).record["made_by"]
    assert [one["scale"] for one in made_by[-1]["inputs"]] == scales


def test_ties_is_its_published_formula(tiny_model: Path, tmp_path: Path) -> None:
    """Yadav et al. 2023: trim, elect the sign, take the mean of the values that have it."""
    first, second = (read_input(path, None, 1.0) for path in two_files(opened(tiny_model), tmp_path))
    found = layers_of(merge_layers([first, second], MergeSettings(method="ties", limit=RankLimit(rank=99)), None))
    shared = sorted(first.layers.keys() & second.layers.keys())
    assert shared
    for place in shared:
        trimmed: list[Tensor] = []
        for one in (first, second):
            change = product(one.layers[place]).float()
            least = change.abs().flatten().topk(change.numel() // 2).values.min()
            trimmed.append(torch.where(change.abs() >= least, change, 0))
        stacked = torch.stack(trimmed)
        sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
        agrees = stacked.sign() == sign
        expected = (stacked * agrees).sum(0) / agrees.sum(0).clamp_min(1)
        torch.testing.assert_close(product(found[place]).float(), expected, atol=1e-4, rtol=1e-3)


def test_dare_drops_the_values_that_the_seed_chooses(tiny_model: Path, tmp_path: Path) -> None:
    inputs = [read_input(path, None) for path in two_files(opened(tiny_model), tmp_path)]

    def merged(seed: int) -> dict[Place, LoraLayer]:
        settings = MergeSettings(method="dare-linear", limit=RankLimit(rank=99), density=0.8, seed=seed)
        return layers_of(merge_layers(inputs, settings, None))

    before = torch.random.get_rng_state()
    first = merged(0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert difference(first, merged(0)) < 1e-6
    assert difference(first, merged(1)) > 0.1


# -------------------------------------------------------------------------------------------------------- key formats


def mixed(model: DiffusionModel, tmp_path: Path) -> tuple[dict[Place, LoraLayer], list[ToolInput]]:
    """Layers of several ranks in two parts."""
    inputs = [read_input(path, model) for path in two_files(model, tmp_path)]
    return layers_of(merge_layers(inputs, MergeSettings(), model)), inputs


@pytest.mark.parametrize("key_format", ["diffusers", "kohya"])
def test_layers_of_several_ranks_have_the_same_strength_in_diffusers(
    tiny_model: Path, tmp_path: Path, key_format: str
) -> None:
    model = opened(tiny_model)
    found, inputs = mixed(model, tmp_path)
    out = saved(found, tmp_path / "out.safetensors", inputs, model, key_format=key_format)
    theirs = model.reference_latents(out, REQUEST, first_noise(model, REQUEST))
    base = model.reference_latents(None, REQUEST, first_noise(model, REQUEST))
    load(model, out)
    ours = drawn(model)
    assert float((base - ours).abs().max()) > 0.01
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_diffusers_is_given_rank_and_alpha_of_each_layer_of_mixed_ranks(tiny_model: Path, tmp_path: Path) -> None:
    """Older releases take one alpha for all layers of a file that does not state them."""
    model = opened(tiny_model)
    found, inputs = mixed(model, tmp_path)
    out = saved(found, tmp_path / "out.safetensors", inputs, model, key_format="diffusers")
    with safe_open(out, "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    for part, component in (("denoiser", "unet"), ("text_encoder", "text_encoder")):
        for (one, module), each in found.items():
            if one == part:
                pattern = said[f"{component}.rank_pattern"]
                assert pattern.get(module.removeprefix("text_model."), said[f"{component}.r"]) == each.rank
        assert said[f"{component}.alpha_pattern"] == said[f"{component}.rank_pattern"]


def test_peft_loads_the_folder_of_each_part(tiny_model: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import PeftModel

    model = opened(tiny_model)
    found, inputs = mixed(model, tmp_path)
    out = saved(found, tmp_path / "out", inputs, model, key_format="peft")
    theirs = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet"), out / "unet")
    modules = dict(theirs.base_model.model.named_modules())
    for (part, name), each in found.items():
        if part == "denoiser":
            delta = modules[name].get_delta_weight("default")
            torch.testing.assert_close(delta, product(each).float(), atol=1e-5, rtol=1e-4)
    assert sorted(folder.name for folder in out.iterdir()) == ["text_encoder", "unet"]
    assert read_input(out / "text_encoder", model).layers.keys() == {place for place in found if place[0] != "denoiser"}


def test_a_lora_is_the_same_after_every_key_format(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    found, inputs = mixed(model, tmp_path)
    path = saved(found, tmp_path / "1.safetensors", inputs, model, key_format="kohya")
    for number, key_format in enumerate(["diffusers", "kohya", "diffusers"], 2):
        one = read_input(path, model)
        path = saved(one.layers, tmp_path / f"{number}.safetensors", [one], model, key_format=key_format)
    assert difference(found, read_input(path, model).layers) < 1e-6


def test_a_file_that_resize_lora_made_is_read_by_the_alphas_of_its_layers(tiny_model: Path, tmp_path: Path) -> None:
    """sd-scripts writes the word `Dynamic` as rank and alpha of such a file; it was refused as no number."""
    model = opened(tiny_model)
    down, up = pairs_of(model, [LINEAR])[LINEAR]
    stem = kohya(LINEAR)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.5)}
    path = write(tmp_path / "x.safetensors", tensors, {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"})
    found = changes(lambda: opened(tiny_model), path, [LINEAR])[LINEAR]
    torch.testing.assert_close(found, up @ down * 0.5, atol=1e-6, rtol=1e-5)


def test_a_file_says_where_it_came_from_and_keeps_what_still_holds(tiny_model: Path, tmp_path: Path) -> None:
    first, _ = two_files(opened(tiny_model), tmp_path)
    path = first
    for number in range(2):
        one = read_input(path, None)
        found = layers_of([truncate(each, RankLimit(rank=2 - number)) for each in one.layers.values()])
        path = saved(found, tmp_path / f"{number}.safetensors", [one])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    steps = json.loads(metadata["loraloom"])["made_by"]
    assert [step["inputs"][0]["file"] for step in steps] == ["first.safetensors", "0.safetensors"]
    assert steps[0]["inputs"][0]["sha256"] == read_input(first, None).file.sha256
    assert metadata["ss_steps"] == "12"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("1", "1.0")


def test_what_half_precision_cannot_hold_is_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    first, _ = two_files(opened(tiny_model), tmp_path)
    one = read_input(first, None)
    huge = {place: concatenate([(each, 1e7)]) for place, each in one.layers.items()}
    with pytest.raises(UserError, match="does not fit fp16"):
        saved(huge, tmp_path / "out" / "x.safetensors", [one], dtype="fp16")
    tiny = {place: concatenate([(each, 1e-8)]) for place, each in one.layers.items()}
    with pytest.raises(UserError, match="what is read back differs"):
        saved(tiny, tmp_path / "out" / "x.safetensors", [one], dtype="fp16")
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------------------------------------------------- the base


def test_extraction_gives_back_what_was_merged_and_names_what_a_lora_cannot_hold(
    tiny_model: Path, tmp_path: Path
) -> None:
    base, tuned = opened(tiny_model), opened(tiny_model)
    kernel = (
        random(3, weight_of(base, CONVOLUTION).shape[1], 3, 3),
        random(weight_of(base, CONVOLUTION).shape[0], 3, 1, 1),
    )
    down, up = pairs_of(base, [LINEAR])[LINEAR]
    layers: dict[str, Any] = dict(base_layers(tuned.modules.get("denoiser")))
    layers[LINEAR].weight.data += up @ down
    change = (kernel[1].flatten(1) @ kernel[0].flatten(1)).reshape(layers[CONVOLUTION].weight.shape)
    layers[CONVOLUTION].weight.data += change
    layers[CONVOLUTION].bias.data += 1
    tuned.save(tmp_path / "tuned", "fp32")
    found = extract(opened(tiny_model), opened(tmp_path / "tuned"), RankLimit(error=1e-4))
    by_name = {one.layer.module: one for one in found.layers}
    assert by_name.keys() == {LINEAR, CONVOLUTION}
    assert [one.layer.rank for one in by_name.values()] == [3, 3]
    torch.testing.assert_close(product(by_name[LINEAR].layer).float(), up @ down, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(product(by_name[CONVOLUTION].layer).float(), change.flatten(1), atol=1e-4, rtol=1e-3)
    assert found.not_held == [f"denoiser: {CONVOLUTION}.bias"]


def test_rounding_to_half_precision_is_no_fine_tuning(tiny_model: Path, tmp_path: Path) -> None:
    opened(tiny_model).save(tmp_path / "half", "fp16")
    with pytest.raises(UserError, match="the same layers") as caught:
        extract(opened(tiny_model), opened(tmp_path / "half"), RankLimit(rank=4))
    assert "0 equal layers" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("text", "place", "scale"),
    [
        ("runs/anime:0.6", "runs/anime", 0.6),
        ("a.safetensors", "a.safetensors", 1.0),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
        ("C:\\loras\\a.safetensors:-1.5", "C:\\loras\\a.safetensors", -1.5),
        ("C:/loras/a", "C:/loras/a", 1.0),
        ("a:1e0", "a", 1.0),
    ],
)
def test_a_place_with_a_scale(text: str, place: str, scale: float) -> None:
    assert parse_place(text) == (Path(place), scale)


@pytest.mark.parametrize("text", ["a:x", "a:", "a:nan", "a:inf", "a:101", "a:1,5"])
def test_a_scale_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"not a scale|two scales"):
        parse_place(text)


def test_loras_of_other_sizes_are_not_merged(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    first, _ = two_files(model, tmp_path)
    tensors = {
        key: value if value.dim() < 2 or "up" in key else value[:, :7] for key, value in load_file(first).items()
    }
    other = write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(UserError, match="models of other sizes"):
        merge_layers([read_input(first, None), read_input(other, None)], MergeSettings(), None)
    with pytest.raises(UserError, match="does not fit this model"):
        read_input(other, model)


def test_one_file_under_two_names_is_not_merged(tiny_model: Path, tmp_path: Path) -> None:
    first, _ = two_files(opened(tiny_model), tmp_path)
    again = tmp_path / "again.safetensors"
    again.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="named twice"):
        merge_layers([read_input(first, None), read_input(again, None)], MergeSettings(), None)
