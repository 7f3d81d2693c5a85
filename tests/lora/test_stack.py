"""Adapters are loaded, scaled, merged and removed by name, and leave nothing behind."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraloom.lora.files import read_adapter, save_adapter
from loraloom.lora.stack import LoraStack, Scale
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

from .foreign import CONVOLUTION, LINEAR, TEXT, changes, load, load_all, weight_of
from .test_exports import RECORD, drawn, opened, shaken

PARTS = {LINEAR: "denoiser", TEXT[0]: "text_encoder"}


@pytest.fixture(scope="module")
def files(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters on the denoiser, the second on its convolutions and on the text encoder too."""
    made: dict[str, Path] = {}
    for name, more in (("a", {}), ("b", {"target": "all_linear_conv", "text_encoder": True})):
        made[name] = tmp_path_factory.mktemp(name) / "adapter.safetensors"
        save_adapter(made[name], shaken(opened(tiny_model), rank=4, alpha=6.0, **more).state(), RECORD)
    return made


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    """Every weight of the model by part and name."""
    parts = [part.name for part in model.info.parts]
    named = {part: model.modules.get(part).state_dict() for part in parts}
    return {f"{part}.{name}": value.clone() for part in parts for name, value in named[part].items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def hooks(model: DiffusionModel) -> int:
    """Number of forward hooks on the model's modules."""
    modules = [module for part in model.info.parts for module in model.modules.get(part.name).modules()]
    return sum(len(module._forward_hooks) for module in modules)  # pyright: ignore[reportPrivateUsage]


def test_an_adapter_beside_the_weights_and_merged_is_the_one_that_was_trained(tiny_model: Path, tmp_path: Path) -> None:
    for target in ("cross_attention", "all_linear_conv"):
        trained = opened(tiny_model)
        adapter = shaken(trained, rank=4, alpha=6.0, target=target, text_encoder=True)
        save_adapter(tmp_path / "adapter.safetensors", adapter.state(), RECORD)
        model = opened(tiny_model)
        base = drawn(model)
        stack = load(model, tmp_path)
        assert (drawn(trained) - base).abs().max() > 0.01
        torch.testing.assert_close(drawn(model), drawn(trained), atol=1e-4, rtol=1e-4)
        stack.merge()
        assert stack.merged
        torch.testing.assert_close(drawn(model), drawn(trained), atol=1e-4, rtol=1e-4)


def test_merging_and_unmerging_is_bit_equal_and_both_give_the_same_images(
    tiny_model: Path, files: dict[str, Path]
) -> None:
    model = opened(tiny_model)
    before = weights(model)
    stack = load_all(model, files, 0.7)
    beside = drawn(model)
    assert same(weights(model), before)
    stack.merge()
    first, merged = weights(model), drawn(model)
    torch.testing.assert_close(merged, beside, atol=1e-4, rtol=1e-4)
    assert not same(first, before)
    stack.unmerge()
    assert same(weights(model), before)
    assert torch.equal(drawn(model), beside)
    stack.merge()
    assert same(weights(model), first)


@pytest.mark.parametrize("merged", [False, True])
def test_removing_leaves_no_trace(tiny_model: Path, files: dict[str, Path], merged: bool) -> None:
    model = opened(tiny_model)
    before, base = weights(model), drawn(model)
    stack = load_all(model, files)
    if merged:
        stack.merge()
    stack.remove("b")
    alone = opened(tiny_model)
    other = load(alone, files["a"])
    if merged:
        other.merge()
    assert same(weights(model), weights(alone))
    assert torch.equal(drawn(model), drawn(alone))
    assert stack.names == ("a",)
    stack.remove("a")
    assert same(weights(model), before)
    assert hooks(model) == 0
    assert torch.equal(drawn(model), base)


@pytest.mark.parametrize("merged", [False, True])
def test_scale_zero_is_the_base_and_equal_scales_give_equal_bits(
    tiny_model: Path, files: dict[str, Path], merged: bool
) -> None:
    model = opened(tiny_model)
    base = drawn(model)
    stack = load(model, files["a"])
    if merged:
        stack.merge()
    whole = drawn(model)
    for scale in (0.3, -2.0, 0.0):
        stack.set_scales({"theirs": scale})
    assert torch.equal(drawn(model), base)
    stack.set_scales({"theirs": 1.0})
    assert torch.equal(drawn(model), whole)
    assert not torch.equal(whole, base)


def test_several_adapters_add_up_and_each_has_its_own_scale(tiny_model: Path, files: dict[str, Path]) -> None:
    model = opened(tiny_model)
    before = weight_of(model, LINEAR)
    stack = load_all(model, files)
    stack.set_scales({"a": 0.5, "b": 2.0})
    stack.merge()
    alone = [changes(lambda: opened(tiny_model), path, [LINEAR])[LINEAR] for path in files.values()]
    expected = before + 0.5 * alone[0] + 2.0 * alone[1]
    torch.testing.assert_close(weight_of(model, LINEAR), expected, atol=1e-6, rtol=1e-5)
    assert stack.scales == {"a": 0.5, "b": 2.0}


def test_an_adapter_that_is_added_to_merged_ones_is_merged_too(tiny_model: Path, files: dict[str, Path]) -> None:
    model, other = opened(tiny_model), opened(tiny_model)
    stack = load(model, files["a"])
    stack.merge()
    stack.add("b", files["b"], 0.4)
    whole = LoraStack(other)
    whole.add("theirs", read_adapter(files["a"]))
    whole.add("b", read_adapter(files["b"]).updates(other), 0.4)
    whole.merge()
    assert same(weights(model), weights(other))


SCALES: list[tuple[Scale, dict[str, float]]] = [
    ({"denoiser": 0.5}, {LINEAR: 0.5, TEXT[0]: 1.0}),
    ({"text_encoder": 0.0}, {LINEAR: 1.0, TEXT[0]: 0.0}),
    ({"down_blocks.0": 0.25}, {LINEAR: 0.25, "mid_block.resnets.0.conv1": 1.0, TEXT[0]: 1.0}),
    ({"down_blocks": 2.0, "down_blocks.0.resnets": -1.0}, {LINEAR: 2.0, CONVOLUTION: -1.0}),
    ({"denoiser.down_blocks.0": 0.0, "denoiser": 3.0}, {LINEAR: 0.0, "mid_block.resnets.0.conv1": 3.0}),
    ({LINEAR: 0.125, "denoiser": 0.0}, {LINEAR: 0.125, CONVOLUTION: 0.0}),
    ({}, {LINEAR: 1.0, TEXT[0]: 1.0}),
]


@pytest.mark.parametrize(("scale", "expected"), SCALES, ids=[str(list(scale)) for scale, _ in SCALES if scale != 1.0])
def test_of_the_scales_by_part_and_block_the_longest_counts(
    tiny_model: Path, files: dict[str, Path], scale: Scale, expected: dict[str, float]
) -> None:
    names = {name: PARTS.get(name, "denoiser") for name in expected}
    for name, part in names.items():
        whole = changes(lambda: opened(tiny_model), files["b"], [name], part)[name]
        found = changes(lambda: opened(tiny_model), files["b"], [name], part, scale)[name]
        torch.testing.assert_close(found, expected[name] * whole, atol=1e-6, rtol=1e-5)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["add", "remove", "scale", "block", "merge", "unmerge"]), max_size=8))
def test_whatever_was_done_before_equal_adapters_and_scales_give_equal_weights(
    tiny_model: Path, files: dict[str, Path], steps: list[str]
) -> None:
    model, fresh = opened(tiny_model), opened(tiny_model)
    stack = load(model, files["a"])
    for step in steps:
        if step == "add" and "b" not in stack.names:
            stack.add("b", files["b"], 0.5)
        elif step == "remove" and "b" in stack.names:
            stack.remove("b")
        elif step == "scale":
            stack.set_scales({"theirs": -0.5})
        elif step == "block":
            stack.set_scales({"theirs": {"down_blocks.0": 0.5}})
        elif step == "merge":
            stack.merge()
        elif step == "unmerge":
            stack.unmerge()
    stack.merge()
    again = LoraStack(fresh)
    for name, scale in stack.scales.items():
        again.add(name, files["a" if name == "theirs" else name], scale)
    again.merge()
    assert same(weights(model), weights(fresh))


def test_a_name_is_used_once_and_unknown_names_list_near_ones(tiny_model: Path, files: dict[str, Path]) -> None:
    stack = LoraStack(opened(tiny_model))
    with pytest.raises(UserError, match="no adapter of this name"):
        stack.remove("style")
    stack.add("style", files["a"])
    with pytest.raises(UserError, match="two adapters of one name"):
        stack.add("style", files["b"])
    for act in (lambda: stack.remove("stile"), lambda: stack.set_scales({"stile": 0.5})):
        with pytest.raises(UserError, match=r"(?s)no adapter of this name.*style"):
            act()
    assert stack.scales == {"style": 1.0}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"down_block.0": 0.5}, r"(?s)changes no layer in this part or block.*down_blocks\.0"),
        ({"denoisr": 0.5}, "(?s)changes no layer in this part or block.*denoiser"),
        ({"vae": 0.5}, "changes no layer in this part or block"),
        ({"down_blocks.0": float("nan")}, "the scale of theirs in down_blocks.0"),
        ({"down_blocks.0": 0.1, "denoiser.down_blocks.0": 0.2}, "two scales of theirs for one block"),
        (101.0, "the scale of theirs"),
        (float("inf"), "the scale of theirs"),
        (True, "the scale of theirs"),
    ],
)
def test_a_scale_that_cannot_be_used_changes_nothing(
    tiny_model: Path, files: dict[str, Path], scale: Scale, message: str
) -> None:
    model = opened(tiny_model)
    stack = load(model, files["a"], 0.5)
    before = drawn(model)
    with pytest.raises(UserError, match=message):
        stack.set_scales({"theirs": scale})
    assert stack.scales == {"theirs": 0.5}
    assert torch.equal(drawn(model), before)
    fresh = opened(tiny_model)
    with pytest.raises(UserError, match=message):
        load(fresh, files["a"], scale)
    assert hooks(fresh) == 0


def test_merged_without_the_base_stays_merged(tiny_model: Path, files: dict[str, Path]) -> None:
    model = opened(tiny_model)
    stack = load(model, files["a"])
    stack.merge(keep_base=False)
    merged = weights(model)
    for act in (stack.unmerge, lambda: stack.remove("theirs"), lambda: stack.set_scales({"theirs": 0.0})):
        with pytest.raises(UserError, match="merged for good"):
            act()
    assert same(weights(model), merged)
    assert stack.scales == {"theirs": 1.0}


def test_half_precision_weights_stay_as_they_are(tiny_model: Path, files: dict[str, Path]) -> None:
    """A bfloat16 weight has eight bits: the sum would lose most of a small update."""
    model = opened(tiny_model)
    model.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    before = weights(model)
    stack = load(model, files["a"])
    stack.merge()
    assert same(weights(model), before)
    layer = dict(model.modules.get("denoiser").named_modules())[
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    ]
    value = torch.ones(1, 3, layer.weight.shape[1], dtype=torch.bfloat16)  # pyright: ignore
    changed = layer(value)
    assert changed.dtype == torch.bfloat16
    stack.set_scales({"theirs": 0.0})
    assert not torch.equal(layer(value), changed)


def test_gradients_flow_after_an_update_was_first_used_in_inference_mode(
    tiny_model: Path, files: dict[str, Path]
) -> None:
    model = opened(tiny_model)
    load(model, files["a"])
    layer = dict(model.modules.get("denoiser").named_modules())[
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    ]
    with torch.inference_mode():
        layer(torch.ones(1, layer.weight.shape[1]))  # pyright: ignore
    value = torch.ones(1, layer.weight.shape[1], requires_grad=True)  # pyright: ignore
    layer(value).sum().backward()
    assert value.grad is not None
    assert bool(value.grad.isfinite().all())
