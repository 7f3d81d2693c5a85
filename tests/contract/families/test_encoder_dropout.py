"""Caption dropout of single text encoders, for every family that has more than one. No line here knows a family."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from loraloom.config.run import DataConfig
from loraloom.data.bucket_sampler import Slot
from loraloom.data.caption_dropout import make_caption_dropout
from loraloom.data.manifest import read_manifest
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource, Tensors
from loraloom.train.build import make_batches
from loraloom.train.distributed import make_runtime
from loraloom.train.run import train
from loraloom.utils.errors import UserError

from .conftest import Case, costly
from .test_families import CAPTION, DOMAIN, encoder, settings

LONG = "a long caption of many words, " * 12


def names(model: DiffusionModel) -> list[str]:
    """Its text encoders; the test is skipped where there is one."""
    found = [part.name for part in model.info.text_encoders]
    if len(found) == 1:
        pytest.skip("one text encoder")
    return found


@torch.inference_mode()
def read(model: DiffusionModel, text: str) -> Tensors:
    """Tensors of a text, as the cache keeps them."""
    return {name: tensor.clone() for name, tensor in encoder(model).encode([text])[0].items()}


@torch.inference_mode()
def shake(model: DiffusionModel, part: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for weight in model.modules.get(part).parameters():
        weight.add_(0.5 * torch.randn(weight.shape, generator=generator))


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("caption", [CAPTION, LONG])
def test_nothing_of_a_dropped_encoder_remains_and_all_of_the_others_does(caption: str, case: Case) -> None:
    """What an encoder makes of a caption is found by changing its weights: those numbers become the empty text's."""
    plain = open_model(ModelSource(location=str(case.folder)))
    text, empty, drop = read(plain, caption), read(plain, ""), getattr(plain.text, "without", None)
    for name in names(plain):
        assert drop is not None
        other = open_model(ModelSource(location=str(case.folder)))
        shake(other, name)
        shaken = read(other, caption)
        dropped = drop(text, empty, {name})
        assert dropped.keys() == text.keys()
        assert not same(dropped, text)
        for key, tensor in text.items():
            if not tensor.is_floating_point():
                continue
            own = (shaken[key] != tensor).reshape(-1, tensor.shape[-1]).any(dim=0)  # columns that the encoder makes
            assert torch.equal(dropped[key][..., ~own], tensor[..., ~own]), (name, key)
            assert torch.equal(dropped[key][..., own], empty[key][..., own].expand_as(tensor[..., own])), (name, key)


def test_without_all_encoders_a_caption_is_the_empty_text(model: DiffusionModel) -> None:
    encoders, text, empty = names(model), read(model, CAPTION), read(model, "")
    drop: Any = getattr(model.text, "without", None)
    assert same(drop(text, empty, set()), text)
    assert same(drop(text, empty, set(encoders)), empty)
    one_by_one = text
    for name in encoders:
        one_by_one = drop(one_by_one, empty, {name})
    assert same(one_by_one, empty)


def test_every_encoder_that_is_dropped_changes_the_prediction(model: DiffusionModel) -> None:
    encoders, text, empty = names(model), read(model, CAPTION), read(model, "")
    drop: Any = getattr(model.text, "without", None)
    side = 4 * model.info.size_multiple
    place = ImageGeometry(original=(side, side), crop=(0, 0), target=(side, side))
    cells = side // model.info.vae_scale_factor
    latents = torch.randn(1, model.info.latent_channels, cells, cells, generator=torch.Generator().manual_seed(1))
    middle = model.info.schedule.timestep_t[model.info.schedule.num_timesteps // 2].float()[None]

    def predicted(tensors: Tensors) -> Tensor:
        with torch.inference_mode():
            return model.predict(latents, middle, model.condition([tensors], [place], None))

    seen = [predicted(text), predicted(empty), *(predicted(drop(text, empty, {name})) for name in encoders)]
    for number, one in enumerate(seen):
        assert all(float((one - other).abs().max()) > 1e-6 for other in seen[:number]), number


def test_what_is_dropped_does_not_depend_on_how_images_are_shared_out(
    model: DiffusionModel, dataset: Path, case: Case, tmp_path: Path
) -> None:
    """A rank makes the micro-batches of its images alone."""
    asked = [f"{name}=0.5" for name in names(model)]
    config = settings(case, dataset, tmp_path, data={"encoder_dropout": asked, "caption_dropout": 0, "cache": False})
    learned = [row for row in read_manifest(dataset).examples if row.width == row.height]
    assert len(learned) > 1
    batches, _ = make_batches(
        config,
        model=model,
        encoder=encoder(model),
        domain=DOMAIN,
        runtime=make_runtime("no", cpu=True),
        learned=learned,
        held_out=[],
    )
    assert "" in batches.needed_captions()
    slots = [Slot(number, 1.0) for number in range(len(learned))]
    together = [batches.make(epoch, slots) for epoch in range(4)]
    for epoch, whole in enumerate(together):
        for number, slot in enumerate(slots):
            for name, tensor in batches.make(epoch, [slot]).conditioning.items():
                torch.testing.assert_close(tensor[0], whole.conditioning[name][number], atol=1e-5, rtol=1e-4)
    plain = replace(batches, dropout=None)
    assert any(
        not torch.equal(tensor, plain.make(epoch, slots).conditioning[name])
        for epoch, whole in enumerate(together)
        for name, tensor in whole.conditioning.items()
    )


@costly
@pytest.mark.parametrize("live", [False, True], ids=["cached", "learning"])
def test_a_run_with_dropped_encoders_is_resumed_exactly_and_records_them(
    live: bool, case: Case, dataset: Path, tmp_path: Path
) -> None:
    """With cached embeddings, and with a text encoder that learns: captions are then encoded at every step."""
    info = open_model(ModelSource(location=str(case.folder))).info
    encoders = [part.name for part in info.text_encoders]
    if len(encoders) == 1 or (live and not any(part.lora_targets for part in info.text_encoders)):
        pytest.skip("one text encoder, or none that learns")
    asked = [f"{name}=0.5" for name in encoders]
    groups: dict[str, dict[str, Any]] = {"lora": {"rank": 4, "text_encoder": live}}
    dropping = {**groups, "data": {"encoder_dropout": asked, "caption_dropout": 0.1}}
    lines: list[str] = []
    train(settings(case, dataset, tmp_path / "a", **dropping), say=lines.append)
    assert sum(f"besides {encoders[0]} 50.0%" in line for line in lines) == 1, lines
    config = settings(case, dataset, tmp_path / "b", **dropping)
    train(config, say=lambda line: None, deadline=0.0)
    train(config, say=lambda line: None)
    train(settings(case, dataset, tmp_path / "c", **groups), say=lambda line: None)
    files = [tmp_path / name / "run" / "adapter.safetensors" for name in "abc"]
    dropped, resumed, plain = (load_file(file) for file in files)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in dropped.items())
    assert any(not torch.equal(tensor, plain[key]) for key, tensor in dropped.items())
    with safe_open(files[0], "pt") as file:
        record = json.loads(file.metadata()["loraloom"])
    assert record["config"]["data"]["encoder_dropout"] == asked


def test_an_encoder_that_is_not_there_is_refused_with_those_that_are(model: DiffusionModel) -> None:
    known = [part.name for part in model.info.text_encoders]

    def refusal(*asked: str, trains: bool = False) -> str:
        with pytest.raises(UserError) as error:
            make_caption_dropout(DataConfig(encoder_dropout=asked), model, trains_text_encoder=trains)
        assert len(str(error.value).splitlines()) <= 2
        return str(error.value)

    said = refusal("clip=0.1")
    assert "clip" in said
    assert all(name in said for name in known)
    if len(known) == 1:
        assert "--caption-dropout" in refusal(f"{known[0]}=0.1")
    elif learning := [part.name for part in model.info.text_encoders if part.lora_targets]:
        assert "would see no caption" in refusal(f"{learning[0]}=1", trains=True)
    assert not any(model.modules.loaded(name) for name in known)
