"""The models that the suite runs for: every family of the registry, a v-prediction one, and one that a package brings."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins
from loraloom.config.run import RunConfig
from loraloom.models.loading import open_model
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.train.run import train

PACKAGE = "tests.contract.families.tiny_flow"


@pytest.fixture(scope="package")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`tiny_flow` as a package brings it: by an entry point of the group `loraloom.families`."""
    root = tmp_path_factory.mktemp("site")
    info = root / "loraloom_tiny_flow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loraloom-tiny-flow\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[loraloom.families]\ntiny_flow = {PACKAGE}\n", encoding="utf-8")
    listed: Any = plugins._entry_points  # pyright: ignore[reportPrivateUsage]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    listed.cache_clear()
    yield
    sys.path.remove(str(root))
    listed.cache_clear()


@dataclass(frozen=True)
class Case:
    """A kind of model, and whether its guidance may be switched off."""

    family: str
    folder: Path


CASES = [*plugins.names("families"), "v_prediction", "tiny_flow"]


@pytest.fixture(scope="package", params=CASES)
def case(request: pytest.FixtureRequest, brought: None, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A tiny model of each kind on disk."""
    folder = tmp_path_factory.mktemp(str(request.param)) / "model"
    if request.param == "v_prediction":
        from loraloom.extensions.families.stable_diffusion.tiny import build_tiny

        return Case("stable_diffusion", build_tiny(folder, seed=1, prediction_type="v_prediction"))
    return Case(request.param, plugins.load("families", request.param).build_tiny(folder, seed=1))


@pytest.fixture
def model(case: Case) -> DiffusionModel:
    """The tiny model, opened anew for each test; no weights read."""
    return open_model(ModelSource(location=str(case.folder)))


@pytest.fixture(scope="package")
def dataset(draw_dataset: Callable[..., Path]) -> Path:
    """Five images of two sizes, prepared."""
    return draw_dataset(5, [(64, 64), (96, 48)], size=64, validation_share=0)


def settings(case: Case, dataset: Path, folder: Path, **groups: dict[str, Any]) -> RunConfig:
    """A run of four steps. What is encoded once is shared by the runs of a case, unless `data.cache_dir` says otherwise."""
    tree: dict[str, dict[str, Any]] = {
        "model": {"source": str(case.folder)},
        "data": {"dataset": str(dataset), "batch_size": 2, "cache_dir": str(case.folder.parent / "cache")},
        "train": {"output": str(folder / "run"), "max_steps": 4, "validation_every": 0},
        "checkpoints": {"every": 0},
        "optim": {"learning_rate": 1e-2},
        "samples": {"enabled": False},
        "export": {"verify": False, "dtype": "fp32"},
        "lora": {"rank": 4},
    }
    for name, values in groups.items():
        tree.setdefault(name, {}).update(values)
    return RunConfig.model_validate(tree)


@dataclass(frozen=True)
class PlainRun:
    """A finished run in float32 without anything that saves memory, and what it said."""

    folder: Path
    lines: tuple[str, ...]


@pytest.fixture(scope="package")
def plain_run(case: Case, dataset: Path) -> PlainRun:
    """Trained once for each case, with samples."""
    lines: list[str] = []
    folder = case.folder.parent / "plain"
    train(settings(case, dataset, folder, samples={"enabled": True, "steps": 2}), say=lines.append)
    return PlainRun(folder=folder, lines=tuple(lines))
