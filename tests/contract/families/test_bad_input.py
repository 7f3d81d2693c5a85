"""What every family says of input that is not its own: one line that names what was found and what was expected."""

from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch

from loraloom import plugins
from loraloom.config.run import LoraConfig
from loraloom.lora.export import export_adapter
from loraloom.lora.files import read_adapter
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError

from .conftest import CASES, Case
from .test_families import layers_of

FAMILIES = [name for name in CASES if name != "v_prediction"]


def refused(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    """The message is short, and says these words."""
    text = str(error.value)
    assert len(text.splitlines()) <= 2, text
    assert all(word in text for word in words), text


def read_all(model: DiffusionModel) -> None:
    for part in model.info.parts:
        model.modules.get(part.name)
        model.modules.fingerprint(part.name)


@pytest.mark.parametrize("other", FAMILIES)
def test_a_model_of_another_family_is_refused_by_the_names_of_both(other: str, case: Case) -> None:
    if other == case.family:
        return
    with pytest.raises(UserError) as error:
        open_model(ModelSource(location=str(case.folder)), other)
    refused(error, other, case.family)


def test_a_missing_part_is_named(case: Case, tmp_path: Path) -> None:
    """The whole folder, its config, or its weights."""
    folders = sorted(file.parent.name for file in case.folder.glob("*/*.safetensors"))
    assert len(folders) >= 3
    for folder in folders:
        for lost in (folder, f"{folder}/config.json", "weights"):
            copy = tmp_path / f"{folder}_{Path(lost).name}"
            copytree(case.folder, copy)
            if lost == folder:
                rmtree(copy / folder)
            elif lost == "weights":
                for file in (copy / folder).glob("*.safetensors"):
                    file.unlink()
            else:
                (copy / lost).unlink()
            with pytest.raises(UserError) as error:
                read_all(open_model(ModelSource(location=str(copy)), case.family))
            refused(error, folder)


@pytest.fixture(scope="package")
def foreign_models(brought: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family."""
    root = tmp_path_factory.mktemp("foreign")
    return {name: plugins.load("families", name).build_tiny(root / name, seed=2) for name in FAMILIES}


@pytest.mark.parametrize("other", FAMILIES)
def test_parts_of_another_family_never_end_in_a_traceback(
    other: str, case: Case, tmp_path: Path, foreign_models: dict[str, Path]
) -> None:
    """A folder with one part of another family opens where that part fits, and is refused in a line where it does not."""
    if other == case.family:
        return
    foreign = foreign_models[other]
    for folder in sorted({path.parent.name for path in foreign.glob("*/config.json")}):
        if not (case.folder / folder).is_dir():
            continue
        mixed = tmp_path / f"mixed_{folder}"
        copytree(case.folder, mixed)
        rmtree(mixed / folder)
        copytree(foreign / folder, mixed / folder)
        try:
            model = open_model(ModelSource(location=str(mixed)), case.family)
            read_all(model)
        except UserError as error:
            assert len(str(error).splitlines()) <= 2, error


@pytest.fixture(scope="package")
def foreign_files(foreign_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """An adapter of each family in every layout that is exported."""
    found: dict[str, list[Path]] = {}
    for name, place in foreign_models.items():
        folder = tmp_path_factory.mktemp(f"adapter_{name}")
        model = open_model(ModelSource(location=str(place)))
        adapter = attach_new(model, LoraConfig(rank=2), seed=0)
        for parameter in adapter.parameters.values():
            parameter.data = torch.full_like(parameter.data, 0.1)
        layers: Any = layers_of(adapter, model, folder)
        found[name] = export_adapter(model, layers, {"rank": 2}, folder / "exports", name, "fp32")
    return found


@pytest.mark.parametrize("other", FAMILIES)
def test_an_adapter_of_another_family_is_refused_by_the_names_of_both(
    other: str, model: DiffusionModel, foreign_models: dict[str, Path], foreign_files: dict[str, list[Path]]
) -> None:
    if other == model.info.family:
        return
    theirs = plugins.load("families", other)
    named = open_model(ModelSource(location=str(foreign_models[other]))).lora_format.architecture
    assert theirs.name == other
    for file in foreign_files[other]:
        with pytest.raises(UserError) as error:
            read_adapter(file).updates(model)
        refused(error, named, model.lora_format.architecture)
