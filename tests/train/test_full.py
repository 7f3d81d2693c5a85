"""`method: full` moves every weight, resumes exactly after a stop, and ends in a model that anybody can open."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loraloom.config.generate import GenerateConfig
from loraloom.generate.session import open_session
from loraloom.lora.files import read_adapter
from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource
from loraloom.train.run import train
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_tensors

FULL = {"method": "full"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for part in ("unet", "text_encoder", "vae"):
        (file,) = (folder / part).glob("*.safetensors")
        found |= {f"{part}.{name}": tensor for name, tensor in read_tensors(file)[0].items()}
    return found


def test_all_weights_of_the_learning_parts_move_and_the_others_stay(
    configure: Callable[..., object], tiny_model: Path, tmp_path: Path
) -> None:
    config = configure(train=FULL, lora={"text_encoder": True}, export={"dtype": "fp32"})
    result = train(config, say=lambda text: None, cpu=True)  # type: ignore[arg-type]
    assert result.adapter == tmp_path / "run" / "model"
    before, after = weights(tiny_model), weights(tmp_path / "run" / "model")
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name].float(), after[name].float())}
    assert {name for name in still if not name.startswith("vae.")} <= {
        # The tiny encoder's hidden states are read before this norm only where a layer is skipped.
        name
        for name in still
        if "position_ids" in name
    }
    assert all(name in still for name in before if name.startswith("vae."))


def test_the_model_folder_opens_draws_and_says_no_to_being_an_adapter(
    configure: Callable[..., object], tmp_path: Path
) -> None:
    train(configure(train=FULL), say=lambda text: None, cpu=True)  # type: ignore[arg-type]
    place = tmp_path / "run" / "model"
    session = open_session(GenerateConfig(steps=2, width=32, height=32), source=ModelSource(location=str(place)))
    (image,) = session.generate(session.requests(["a drawn image"]))
    assert image.image.size == (32, 32)
    with pytest.raises(UserError, match="made a model, not an adapter"):
        read_adapter(tmp_path / "run")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_is_cut_ends_bit_identical(optimizer: str, configure: Callable[..., object], tmp_path: Path) -> None:
    common = {"lora": {"ema_decay": 0.9}, "export": {"dtype": "fp32"}, "optim": {"optimizer": optimizer}}
    whole = configure(train={**FULL, "max_steps": 6}, **common)
    train(whole, say=lambda text: None, cpu=True)  # type: ignore[arg-type]
    first = weights(tmp_path / "run" / "model")

    class EnoughError(Exception):
        pass

    def stop_after(done: int, numbers: dict[str, float]) -> None:
        if done >= 4:
            raise EnoughError

    again = configure(train={**FULL, "max_steps": 6, "output": str(tmp_path / "cut")}, **common)
    with pytest.raises(EnoughError):
        train(again, say=lambda text: None, report=stop_after, cpu=True)  # type: ignore[arg-type]
    train(again, say=lambda text: None, cpu=True)  # type: ignore[arg-type]
    second = weights(tmp_path / "cut" / "model")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_model_is_the_model(tiny_model: Path, tmp_path: Path) -> None:
    model = open_model(ModelSource(location=str(tiny_model)))
    model.save(tmp_path / "copy", "fp32")
    copy = open_model(replace(model.info.source, location=str(tmp_path / "copy")))
    assert copy.text.tokenizer.tokenize("a house") == model.text.tokenizer.tokenize("a house")
    a, b = weights(tiny_model), weights(tmp_path / "copy")
    assert all(torch.equal(a[name].float(), b[name]) for name in a)
    copy.save(tmp_path / "again", "fp32")
    again = open_model(replace(model.info.source, location=str(tmp_path / "again")))
    # A model that is given away says nothing of the machine that it was made on.
    assert not [
        file for file in (tmp_path / "again").rglob("*.json") if str(tmp_path) in file.read_text(encoding="utf-8")
    ]
    assert again.modules.fingerprint("vae") == copy.modules.fingerprint(
        "vae"
    )  # so that latents cached with one serve the other
