"""The figures of `loraloom families` are those of the family: declared tensors, tried steps, exports that exist."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loraloom import plugins
from loraloom.cli.families_command import families
from loraloom.config.run import LoraConfig
from loraloom.lora.export import export_adapter
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.models.low_bits import LowBits, store
from loraloom.models.reference import num_parameters, reference_model
from loraloom.protocols.family_card import FamilyCard, TextTensor
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.memory import step_memory

from .conftest import Case, costly
from .test_families import CAPTION, encoder, layers_of, shaken


@pytest.fixture
def card(case: Case) -> FamilyCard:
    found = plugins.load_card(case.family)
    assert found is not None, f"{case.family} says nothing of itself: export {plugins.CARD}"
    return found


def declared(texts: dict[str, torch.Tensor]) -> dict[str, TextTensor]:
    """What a family's card would say of these tensors."""
    kinds = {torch.bool: "bool", torch.int64: "int"}
    found: dict[str, Any] = {}
    for name, tensor in texts.items():
        found[name] = TextTensor(shape=tuple(tensor.shape), dtype=kinds.get(tensor.dtype, "float"))  # pyright: ignore[reportArgumentType]
    return found


def test_declared_text_tensors_are_those_that_the_encoders_give(card: FamilyCard, model: DiffusionModel) -> None:
    with torch.inference_mode():
        given = declared(dict(encoder(model).encode([CAPTION])[0]))
    assert {name: (len(t.shape), t.dtype) for name, t in card.text_tensors.items()} == {
        name: (len(t.shape), t.dtype) for name, t in given.items()
    }
    assert set(card.text_tokens) == {part.name for part in model.info.text_encoders}
    assert model.text.tokenizer.window_tokens in card.text_tokens.values()


def test_every_layout_of_the_table_is_exported(model: DiffusionModel, tmp_path: Path) -> None:
    files = export_adapter(model, layers_of(shaken(model), model, tmp_path), {"rank": 3}, tmp_path / "e", "x", "fp32")
    assert len(files) == len(model.lora_format.programs) >= 2


def test_the_usual_base_opens_from_the_card_without_weights(case: Case, card: FamilyCard) -> None:
    with reference_model(case.family, card) as model:
        assert all(num_parameters(model, card, part.name) > 0 for part in model.info.parts)
        assert not any(model.modules.loaded(part.name) for part in model.info.parts)
        assert card.size_px % model.info.size_multiple == 0
        assert model.info.family == case.family


def measured(
    model: DiffusionModel, size_px: int, dtype: torch.dtype, *, checkpointing: bool, low_bits: LowBits | None = None
) -> int:
    """The most bytes that torch's CPU allocator holds during a real step, as its profiler sees it."""
    part = model.info.denoiser.name
    model.modules.place(part, torch.device("cpu"), dtype)
    attach_new(model, LoraConfig(), seed=0)
    if low_bits:
        store(model.modules.get(part), low_bits)
    if checkpointing:
        model.modules.checkpoint_gradients(part)
    model.modules.get(part).train()
    with torch.no_grad():
        texts = [{name: value.clone() for name, value in encoder(model).encode([CAPTION])[0].items()}] * 2
    texts = [{n: v.to(dtype) if v.is_floating_point() else v for n, v in text.items()} for text in texts]
    size = (size_px, size_px)
    given = model.condition(texts, [ImageGeometry(original=size, crop=(0, 0), target=size)] * 2, None)
    cells = size_px // model.info.vae_scale_factor
    latents_bchw, timesteps_b = torch.zeros(2, model.info.latent_channels, cells, cells), torch.full((2,), 500.0)
    gc.collect()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            answer_bchw = model.predict(latents_bchw, timesteps_b, given)
        answer_bchw.float().square().mean().backward()
    return max(held(profile))


def held(profile: Any) -> Iterator[int]:
    """Bytes held after each allocation and release, in order of time."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        yield now


def test_the_tried_step_takes_the_memory_that_a_real_one_takes(case: Case, card: FamilyCard) -> None:
    check_tried(case, card, checkpointing=False, low_bits=None)


@costly
@pytest.mark.parametrize("low_bits", [None, "nf4"])
def test_a_tried_step_that_saves_memory_takes_what_a_real_one_takes(
    low_bits: LowBits | None, case: Case, card: FamilyCard
) -> None:
    check_tried(case, card, checkpointing=True, low_bits=low_bits)


def check_tried(case: Case, card: FamilyCard, *, checkpointing: bool, low_bits: LowBits | None) -> None:
    """Compare a step without data with one that runs."""
    model = open_model(ModelSource(location=str(case.folder)))
    # From 768 tokens on PyTorch's attention on the CPU holds a workspace that counts beside so small a model.
    size_px = (12 if max(card.text_tokens.values()) >= 500 else 16) * model.info.size_multiple
    with torch.no_grad():
        texts = declared(dict(encoder(model).encode([CAPTION])[0]))
    for part in model.info.text_encoders:
        model.modules.drop(part.name)
    dtype = torch.float32
    modes: Any = {"checkpointing": checkpointing, "low_bits": low_bits}
    tried = step_memory(model, texts, size_px=size_px, batch_size=2, dtype=dtype, **modes)
    opened = open_model(ModelSource(location=str(case.folder)))
    real = measured(opened, size_px, dtype, **modes)
    frozen = [
        weight for weight in opened.modules.get(opened.info.denoiser.name).parameters() if not weight.requires_grad
    ]
    assert tried.weights == sum(weight.numel() * weight.element_size() for weight in frozen)
    # A checkpoint also keeps the state of the random numbers, 5 KB each: some thousandth of a real step.
    assert 0.9 * (real - 200_000 * checkpointing) < tried.activations < 1.1 * real


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_family_of_this_package_has_a_row_with_a_figure_in_each_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALOOM_CACHE", str(tmp_path))
    own = [name for name in plugins.names("families") if plugins.origin("families", name) == plugins.OURS]
    said: list[str] = []
    rows = {row.name: row for row in families(None, said.append)}
    assert set(own) <= set(rows)
    assert not [line for line in said if "no card" in line and any(name in line for name in own)]
    said.clear()
    [alone] = families(own[0], said.append)
    assert alone.step_gib.items() >= rows[own[0]].step_gib.items()
    assert [mode for mode in ("plain", "fp8") if any(f"({mode})" in line for line in said)] == ["fp8"], (
        "it is remembered"
    )
    assert alone.step_gib["nf4"]["weights"] < alone.step_gib["fp8"]["weights"] < alone.step_gib["plain"]["weights"]
    for row in (rows[name] for name in own):
        plain, checkpointed = row.step_gib["plain"], row.step_gib["gradient_checkpointing"]
        assert 0 < checkpointed["activations"] < plain["activations"]
        assert (
            plain["weights"]
            == checkpointed["weights"]
            == pytest.approx(2 * row.parameters[row.denoiser] / 2**30, abs=0.01)
        )
        assert plain["total"] == pytest.approx(
            sum(plain[key] for key in ("weights", "adapter", "activations")), abs=0.02
        )
        assert {"diffusers", "kohya"} <= set(row.programs)
        assert all(set(cells) == set(row.programs) for cells in row.exports.values())
