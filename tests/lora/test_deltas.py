"""Updates of whole weights are what their authors' formulas, peft and LyCORIS make of the same tensors.

The formulas here are written out from their definitions. LyCORIS' own modules (lycoris-lora 4.1.3) were compared with
`loraloom.lora.deltas` once, outside this suite: all kinds below agree within 1e-7.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loraloom.lora.files import read_adapter
from loraloom.utils.errors import UserError

from .foreign import (
    BLOCK,
    CONVOLUTION,
    LINEAR,
    changes,
    kohya,
    load,
    load_all,
    merged_changes,
    random,
    weight_of,
    write,
)
from .test_exports import drawn, opened

ALPHA, RANK = 3.0, 2
KEY = f"{BLOCK}.attn2.to_k"


def loha(out: int, into: int, kernel: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    a1, b1, a2, b2 = (
        random(*shape, seed=n) for n, shape in enumerate([(out, RANK), (RANK, into * _count(kernel))] * 2)
    )
    update = torch.zeros(out, into * _count(kernel))
    for row in range(out):
        update[row] = (a1[row] @ b1) * (a2[row] @ b2)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, update


def loha_with_cores(out: int, into: int, kernel: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    tensors: dict[str, Tensor] = {}
    halves: list[Tensor] = []
    for number in (1, 2):
        core, first, second = (
            random(RANK, RANK, *kernel, seed=number),
            random(RANK, out, seed=number),
            random(RANK, into, seed=9 * number),
        )
        tensors |= {f"hada_t{number}": core, f"hada_w{number}_a": first, f"hada_w{number}_b": second}
        half = sum(
            first[i][:, None, None, None] * second[j][None, :, None, None] * core[i, j]
            for i in range(RANK)
            for j in range(RANK)
        )
        assert isinstance(half, Tensor)
        halves.append(half)
    return tensors, halves[0] * halves[1]


def lokr(out: int, into: int, kernel: tuple[int, ...], *, left: str, right: str) -> tuple[dict[str, Tensor], Tensor]:
    """`left` and `right`: whole, factors, or core (of the right half)."""
    a, b, c, d = 4, 2, out // 4, into // 2
    tensors: dict[str, Tensor] = {}
    if left == "whole":
        tensors["lokr_w1"] = first = random(a, b)
    else:
        tensors["lokr_w1_a"], tensors["lokr_w1_b"] = random(a, RANK), random(RANK, b)
        first = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if right == "whole":
        tensors["lokr_w2"] = second = random(c, d, *kernel)
    elif right == "core":
        core, up, down = random(RANK, RANK, *kernel), random(RANK, c), random(RANK, d, seed=3)
        tensors |= {"lokr_t2": core, "lokr_w2_a": up, "lokr_w2_b": down}
        second = torch.einsum("ijhw,ic,jd->cdhw", core, up, down)
    else:
        tensors["lokr_w2_a"], tensors["lokr_w2_b"] = random(c, RANK), random(RANK, d * _count(kernel))
        second = (tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]).reshape(c, d, *kernel)
    update = torch.zeros(out, into, *kernel)
    for row in range(a):
        for column in range(b):
            update[row * c : (row + 1) * c, column * d : (column + 1) * d] = first[row, column] * second
    return tensors, update


def locon_with_core(out: int, into: int, kernel: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    up, core, down = random(out, RANK, 1, 1), random(RANK, RANK, *kernel), random(RANK, into, 1, 1)
    update = torch.zeros(out, into, *kernel)
    for m in range(RANK):
        for n in range(RANK):
            update += up[:, m].reshape(-1, 1, 1, 1) * down[n].reshape(1, -1, 1, 1) * core[m, n]
    return {"lora_up.weight": up, "lora_mid.weight": core, "lora_down.weight": down}, update


def _count(kernel: tuple[int, ...]) -> int:
    return int(torch.tensor(kernel).prod()) if kernel else 1


CASES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("LoHa, linear", LINEAR, loha, {}),
    ("LoHa, convolution", CONVOLUTION, loha, {}),
    ("LoHa with cores", CONVOLUTION, loha_with_cores, {}),
    ("LoCon with a core", CONVOLUTION, locon_with_core, {}),
    *(
        (f"LoKr {left} x {right}, {title}", name, lokr, {"left": left, "right": right})
        for title, name in (("linear", LINEAR), ("convolution", CONVOLUTION))
        for left in ("whole", "factors")
        for right in ("whole", "factors", "core")
        if not (right == "core" and title == "linear")
    ),
]


@pytest.mark.parametrize(("name", "make", "options"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_update_is_its_formula_times_alpha_over_rank(
    tiny_model: Path, tmp_path: Path, name: str, make: Any, options: dict[str, Any]
) -> None:
    shape = tuple(weight_of(opened(tiny_model), name).shape)
    tensors, update = make(shape[0], shape[1], shape[2:], **options)
    path = write(
        tmp_path / "x.safetensors",
        {
            **{f"{kohya(name)}.{role}": value for role, value in tensors.items()},
            f"{kohya(name)}.alpha": torch.tensor(ALPHA),
        },
    )
    whole = options.get("left") == options.get("right") == "whole"  # LyCORIS: no rank, so alpha counts for nothing
    expected = update.reshape(shape) * (1.0 if whole else ALPHA / RANK)
    for weight in (1.0, 0.4, -1.0):
        found = changes(lambda: opened(tiny_model), path, [name], scale=weight)[name]
        torch.testing.assert_close(found, weight * expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_a_full_difference_is_added_with_its_bias(tiny_model: Path, tmp_path: Path, biased: bool) -> None:
    """The bias is added to a layer without one too (`to_k` has none), as LyCORIS does."""
    model = opened(tiny_model)
    name = CONVOLUTION if biased else KEY
    weight = weight_of(model, name)
    update, bias = random(*weight.shape), random(weight.shape[0])
    path = write(tmp_path / "x.safetensors", {f"{kohya(name)}.diff": update, f"{kohya(name)}.diff_b": bias})
    stack = load(model, path, 0.5)
    module: Any = dict(model.modules.get("denoiser").named_modules())[name]
    value = random(1, weight.shape[1], 5, 5) if biased else random(3, weight.shape[1])
    expected = module.bias.detach() if module.bias is not None else torch.zeros(weight.shape[0])
    expected = expected + 0.5 * bias
    if biased:
        wanted = torch.nn.functional.conv2d(
            value, weight + 0.5 * update, expected, padding=module.padding, stride=module.stride
        )
    else:
        wanted = torch.nn.functional.linear(value, weight + 0.5 * update, expected)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(module(value), wanted, atol=1e-5, rtol=1e-5)
        stack.merge(keep_base=False)


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
@pytest.mark.parametrize("name", [LINEAR, KEY, CONVOLUTION])
def test_dora_is_the_norms_times_the_direction_of_the_changed_weight(
    tiny_model: Path, tmp_path: Path, name: str, axis: str
) -> None:
    base = weight_of(opened(tiny_model), name)
    out, into, *kernel = base.shape
    down, up = random(RANK, into, *kernel), random(out, RANK, *[1] * len(kernel))
    shape = (out, 1, *[1] * len(kernel)) if axis == "outputs" else (1, into, *[1] * len(kernel))
    norms = random(*shape).abs() + 0.5
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(ALPHA), "dora_scale": norms}
    path = write(tmp_path / "x.safetensors", {f"{kohya(name)}.{role}": value for role, value in tensors.items()})
    for weight in (1.0, 0.4):
        changed = base + weight * (ALPHA / RANK) * (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
        rows = changed.flatten(1) if axis == "outputs" else changed.transpose(0, 1).flatten(1)
        expected = changed * (norms.flatten() / rows.norm(dim=1)).reshape(shape) - base
        found = changes(lambda: opened(tiny_model), path, [name], scale=weight)[name]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "kind",
    ["LoHa", "LoHa, cores", "LoKr", "LoKr, both halves factored", "LoKr, both halves whole", "LoKr, core", "DoRA"],
)
def test_peft_makes_the_same_of_its_own_file(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

    targets = ["to_q", "attn2.to_k", "conv1"]
    settings = {
        "LoHa": LoHaConfig(r=2, alpha=3, target_modules=targets, init_weights=False),
        "LoHa, cores": LoHaConfig(r=2, alpha=3, target_modules=targets, init_weights=False, use_effective_conv2d=True),
        "LoKr": LoKrConfig(r=2, alpha=3, target_modules=targets, init_weights=False, alpha_pattern={"to_q": 5}),
        "LoKr, both halves factored": LoKrConfig(
            r=1, alpha=3, target_modules=targets, init_weights=False, decompose_both=True, decompose_factor=4
        ),
        "LoKr, both halves whole": LoKrConfig(r=16, alpha=3, target_modules=targets, init_weights=False),
        "LoKr, core": LoKrConfig(r=2, alpha=3, target_modules=targets, init_weights=False, use_effective_conv2d=True),
        "DoRA": LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False, use_dora=True),
    }[kind]
    unet = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet").eval()
    theirs: Any = get_peft_model(unet, settings)
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.5
    theirs.save_pretrained(tmp_path)
    model = opened(tiny_model)
    names = [name for name, layer in theirs.base_model.model.named_modules() if hasattr(layer, "base_layer")]
    before = {name: weight_of(model, name) for name in names}
    ours = merged_changes(model, load(model, tmp_path), dict.fromkeys(names, "denoiser"))
    theirs.merge_adapter()
    layers = dict(theirs.base_model.model.named_modules())
    assert max(change.abs().max() for change in ours.values()) > 0.01
    for name in names:
        torch.testing.assert_close(
            ours[name] + before[name], layers[name].base_layer.weight, atol=1e-5, rtol=1e-5, msg=name
        )


def mixed(tiny_model: Path, folder: Path) -> list[Path]:
    """A LoHa, a DoRA and a plain LoRA on the same layers."""
    files: list[Path] = []
    base = opened(tiny_model)
    for kind in ("loha", "dora", "lora"):
        tensors: dict[str, Tensor] = {}
        for name in (LINEAR, KEY, CONVOLUTION):
            out, into, *kernel = weight_of(base, name).shape
            if kind == "loha":
                made, _ = loha(out, into, tuple(kernel))
            else:
                made = {
                    "lora_down.weight": random(RANK, into, *kernel),
                    "lora_up.weight": random(out, RANK, *[1] * len(kernel)),
                }
                if kind == "dora":
                    made["dora_scale"] = random(out, 1, *[1] * len(kernel)).abs() + 0.5
            tensors |= {f"{kohya(name)}.{role}": value for role, value in made.items()}
            tensors[f"{kohya(name)}.alpha"] = torch.tensor(ALPHA)
        files.append(write(folder / f"{kind}.safetensors", tensors))
    return files


def test_several_kinds_add_up_merged_and_beside_and_are_removed_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    base, own = drawn(model), {name: weight_of(model, name) for name in (LINEAR, KEY, CONVOLUTION)}
    stack = load_all(model, {path.stem: path for path in mixed(tiny_model, tmp_path)}, 0.7)
    beside = drawn(model)
    stack.merge()
    merged = drawn(model)
    assert (beside - base).abs().max() > 0.01
    torch.testing.assert_close(merged, beside, atol=1e-4, rtol=1e-4)
    for scale in (0.2, 0.0):
        stack.set_scales(dict.fromkeys(stack.names, scale))
    assert torch.equal(drawn(model), base)
    stack.set_scales(dict.fromkeys(stack.names, 0.7))
    assert torch.equal(drawn(model), merged)
    for name in stack.names:
        stack.remove(name)
    assert torch.equal(drawn(model), base)
    assert all(torch.equal(weight_of(model, name), weight) for name, weight in own.items())


def test_each_adapter_changes_the_base_alone_whatever_else_is_on(tiny_model: Path, tmp_path: Path) -> None:
    """A DoRA is computed from the base's own weight, not from what another adapter made of it."""
    files = mixed(tiny_model, tmp_path)
    names = dict.fromkeys((LINEAR, KEY, CONVOLUTION), "denoiser")
    alone = [changes(lambda: opened(tiny_model), path, list(names)) for path in files]
    model = opened(tiny_model)
    together = merged_changes(model, load_all(model, {path.stem: path for path in reversed(files)}), names)
    for name in names:
        torch.testing.assert_close(together[name], sum(change[name] for change in alone), atol=1e-5, rtol=1e-5)


def test_in_half_precision_updates_stay_beside_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    model.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    before = weight_of(model, LINEAR)
    module: Any = dict(model.modules.get("denoiser").named_modules())[LINEAR]
    value = random(2, before.shape[1]).bfloat16()
    plain = module(value)
    load(model, mixed(tiny_model, tmp_path)[0]).merge()
    assert torch.equal(weight_of(model, LINEAR), before)
    assert (module(value) - plain).abs().max() > 0.01


def test_an_update_that_overflows_is_an_error_not_an_image(tiny_model: Path, tmp_path: Path) -> None:
    shape = tuple(weight_of(opened(tiny_model), LINEAR).shape)
    save_file({f"{kohya(LINEAR)}.diff": torch.full(shape, 3e29)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"too large to multiply|not finite"):
        load(opened(tiny_model), tmp_path / "x.safetensors")
    tensors = {
        f"{kohya(LINEAR)}.lora_down.weight": torch.full((2, shape[1]), 1e20),
        f"{kohya(LINEAR)}.lora_up.weight": torch.full((shape[0], 2), 1e20),
    }
    with pytest.raises(UserError, match="too large to multiply"):
        load(opened(tiny_model), write(tmp_path / "y.safetensors", tensors))


def test_a_closed_kind_is_not_taken_for_pairs(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a plain LoRA"):
        read_adapter(mixed(tiny_model, tmp_path)[0]).layers(opened(tiny_model))
