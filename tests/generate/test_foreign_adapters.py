"""Adapters made by others, and adapters that moved, in a session that draws."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loraloom.config.generate import GenerateConfig
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.generate.session import Session, open_session
from loraloom.lora.record import relative_base
from loraloom.protocols.generation import GeneratedImage
from loraloom.utils.errors import UserError

from ..lora.foreign import BLOCK, kohya
from .conftest import QUICK, MakeAdapter, OpenSession


def pixels(session: Session) -> list[bytes]:
    def of(image: GeneratedImage) -> bytes:
        return image.image.tobytes()

    return [of(image) for image in session.generate(session.requests(["a plan"]))]


def loha(path: Path, *, alpha: bool = True) -> Path:
    """A LoHa on two layers of the tiny model."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name in (f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_out.0"):
        for number in "12":
            tensors[f"{kohya(name)}.hada_w{number}_a"] = torch.randn(32, 4, generator=generator)
            tensors[f"{kohya(name)}.hada_w{number}_b"] = torch.randn(4, 32, generator=generator)
        if alpha:
            tensors[f"{kohya(name)}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)
    return path


def test_a_loha_beside_a_lora_is_drawn_with_and_taken_back(
    session_of: OpenSession, adapter: Path, tmp_path: Path
) -> None:
    base = pixels(session_of())
    session = session_of([(adapter, 1.0), (loha(tmp_path / "x.safetensors"), 1.0)])
    both = pixels(session)
    lora, other = session.adapters.names
    assert (lora, other) == ("dog", "x")
    session.adapters.set_scales({other: 0.0})
    assert pixels(session) == pixels(session_of([(adapter, 1.0)])) != both
    session.adapters.set_scales({lora: 0.0})
    assert pixels(session) == base
    session.adapters.set_scales({lora: 1.0, other: 1.0})
    assert pixels(session) == both


def test_two_adapters_cause_no_warning_of_a_library(session_of: OpenSession, adapter: Path) -> None:
    """peft warned of "multiple adapters" on the terminal, for what was asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session_of([(adapter, 1.0), (adapter, 0.5)])


def test_what_a_file_does_not_state_is_said_once_and_strict_refuses_it(session_of: OpenSession, tmp_path: Path) -> None:
    path = loha(tmp_path / "x.safetensors", alpha=False)
    said: list[str] = []
    session_of([(path, 1.0), (path, 0.5)], say=said.append)
    assert len(said) == 1
    assert "no alpha in the file: alpha = rank" in said[0]
    with pytest.raises(UserError, match=r"(?s)--strict is on.*no alpha in the file"):
        session_of([(path, 1.0)], strict=True)


def test_another_base_than_the_recorded_one_is_said_and_strict_refuses_it(
    session_of: OpenSession, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "run", base_sha256="0" * 64)
    said: list[str] = []
    session_of([(folder, 1.0)], say=said.append)
    assert len(said) == 1
    assert "was trained on another base" in said[0]
    with pytest.raises(UserError, match="was trained on another base"):
        session_of([(folder, 1.0)], strict=True)


def opened(adapter: Path) -> Session:
    return open_session(GenerateConfig.model_validate(QUICK), adapters=[(adapter, 1.0)])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_base_given_by_a_relative_path_is_found_from_another_folder(
    make_adapter: MakeAdapter, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool
) -> None:
    """`--model models/mini` was looked for below the folder where the adapter was *used*, and then on the hub."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(tiny_model, project / "models" / "tiny")
    elsewhere.mkdir()
    run = project / "runs" / "dog"
    monkeypatch.chdir(project)
    made = make_adapter(
        run / "checkpoints" / "step_0000001" if checkpoint else run,
        base={"source": "models/tiny", "path": relative_base("models/tiny", run)},
    )
    monkeypatch.chdir(elsewhere)
    assert Path(opened(made).model.info.source.location) == project / "models" / "tiny"
    project.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / made.relative_to(project)
    assert Path(opened(moved).model.info.source.location) == tmp_path / "moved" / "models" / "tiny"
    monkeypatch.chdir(tmp_path / "moved")
    assert opened(moved).model.info.source.location == "models/tiny"


def test_a_base_that_is_not_found_says_what_was_recorded_and_that_model_overrides_it(
    make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("./models/gone", "models/gone", "gone.safetensors"):
        folder = make_adapter(tmp_path / "run", base={"source": source})
        with pytest.raises(UserError, match=f"recorded '{source}' as its base; --model overrides it"):
            opened(folder)


def test_the_prediction_type_that_was_recorded_is_drawn_with(
    make_adapter: MakeAdapter, tiny_model: Path, tmp_path: Path
) -> None:
    """It was recorded and never read: such an adapter drew noise unless --model's scheduler said the same."""
    folder = make_adapter(tmp_path / "run", base={"source": str(tiny_model), "prediction_type": "v_prediction"})
    assert opened(folder).model.info.schedule.prediction_type == "v_prediction"


def test_a_file_without_a_record_asks_for_the_model_and_names_the_base_of_its_metadata(tmp_path: Path) -> None:
    path = loha(tmp_path / "x.safetensors")
    save_file(load_file(path), path, {"ss_sd_model_name": "dreamy.safetensors"})
    with pytest.raises(UserError, match=r"does not record its base model(?s:.*)dreamy\.safetensors(?s:.*)add --model"):
        opened(path)


@pytest.mark.parametrize(
    "field",
    [
        {"domain": "no such domain"},
        {"domain": "../../x"},
        {"domain": ""},
        {"prompt_method": "guess"},
        {"base": {"source": "\0"}},
        {"base": {"source": "x" * 4000}},
        {"base": {"source": "a/b", "path": "../" * 1000}},
        {"size": "17x16"},
    ],
)
def test_a_record_that_names_what_is_not_there_is_a_sentence(
    make_adapter: MakeAdapter, tmp_path: Path, field: dict[str, Any]
) -> None:
    settings = {key: value for key, value in QUICK.items() if key not in {"width", "height"}}
    folder = make_adapter(tmp_path / "run", **field)
    assert json.loads(json.dumps(field)) == field
    with pytest.raises(UserError):
        pixels(open_session(GenerateConfig.model_validate(settings), adapters=[(folder, 1.0)]))


def test_an_adapter_of_a_model_with_other_widths_is_refused_before_its_weights_are_used(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    other = build_tiny(tmp_path / "other", seed=1, widths=(48, 64))
    folder = make_adapter(tmp_path / "run", base={"source": str(other)})
    with pytest.raises(UserError, match="does not fit this model at"):
        opened(folder)
