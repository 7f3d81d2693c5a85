"""What a user runs works for every family: doctor, tokens, generate, the method full, and fp16 where there is a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loraloom.cli.doctor import OK, check_model
from loraloom.config.generate import GenerateConfig
from loraloom.data.manifest import read_manifest
from loraloom.data.tokens import tokens_text
from loraloom.generate.session import open_session
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.train.run import train
from loraloom.utils.errors import UserError

from .conftest import Case, FinishedRun, costly
from .test_families import CAPTION, settings

FULL = {"train": {"method": "full", "max_steps": 3}, "optim": {"learning_rate": 1e-3}, "lora": {"rank": 16}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model folder by its part and name."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_doctor_opens_the_model_and_names_its_family(case: Case) -> None:
    found = check_model(str(case.folder))
    assert (found.verdict, case.family in found.found) == (OK, True), found


def test_tokens_counts_the_captions_of_a_dataset(case: Case, dataset: Path) -> None:
    text = tokens_text(dataset, str(case.folder), "auto", None)
    model = open_model(ModelSource(location=str(case.folder)))
    captions = [row.caption for row in read_manifest(dataset).examples]
    assert text.startswith(f"{len(captions)} captions")
    encoders = model.text.counts(captions[0])
    rows = [line for line in text.splitlines() if any(line.startswith(encoder.name) for encoder in encoders)]
    assert len(rows) == len(encoders)
    for encoder in encoders:  # captions of one length
        [row] = [line for line in rows if line.startswith(encoder.name)]
        assert row.removeprefix(encoder.name).split() == [str(encoder.capacity), *[str(encoder.tokens)] * 3, "0", "0"]
    if not encoders:
        count = len(model.text.tokenizer.tokenize(captions[0]))
        assert f"{count} to {count} tokens" in text


def test_generate_draws_with_what_training_wrote(case: Case, model: DiffusionModel, plain_run: FinishedRun) -> None:
    """The same image twice, of the size that was asked for, and another one than the base's."""
    side = 4 * model.info.size_multiple
    wanted = GenerateConfig(steps=2, width=2 * side, height=side, seed=3, sampler=model.info.defaults.exact_sampler)

    def drawn(*adapters: tuple[Path, float]) -> Any:
        source = None if adapters else ModelSource(location=str(case.folder))
        session = open_session(wanted, source=source, adapters=adapters, say=lambda line: None)
        (image,) = session.generate(session.requests([CAPTION]))
        return image.image

    trained = (plain_run.folder / "run", 4.0)  # four steps alone might move no pixel
    first, again, base = drawn(trained), drawn(trained), drawn()
    assert first.size == (2 * side, side)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != base.tobytes()


@costly
def test_the_method_full_moves_the_denoiser_alone_resumes_exactly_and_ends_in_a_model(
    case: Case, dataset: Path, tmp_path: Path
) -> None:
    train(settings(case, dataset, tmp_path / "a", **FULL), say=lambda line: None)
    cut = settings(case, dataset, tmp_path / "b", **FULL)
    train(cut, say=lambda line: None, deadline=0.0)
    assert not (tmp_path / "b" / "run" / "model").exists()
    train(cut, say=lambda line: None)
    before, after, resumed = (
        weights(folder) for folder in (case.folder, *(tmp_path / n / "run" / "model" for n in "ab"))
    )
    assert before.keys() == after.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in after.items())
    moved = {name for name, tensor in before.items() if not torch.equal(tensor.float(), after[name].float())}
    base = open_model(ModelSource(location=str(case.folder)))
    denoiser = base.lora_format.component(base.info.denoiser.name)
    assert moved
    assert {name.partition(".")[0] for name in moved} == {denoiser}
    opened = open_model(ModelSource(location=str(tmp_path / "a" / "run" / "model")))
    assert opened.info.family == case.family
    assert json.loads((tmp_path / "a" / "run" / "model" / "model_index.json").read_text(encoding="utf-8"))


def test_fp16_without_a_gpu_is_refused_in_a_line(case: Case, dataset: Path, tmp_path: Path) -> None:
    config = settings(case, dataset, tmp_path, train={"mixed_precision": "fp16"})
    with pytest.raises(UserError, match="fp16 training needs a GPU") as error:
        train(config, say=lambda line: None, cpu=True)
    assert len(str(error.value).splitlines()) <= 2
