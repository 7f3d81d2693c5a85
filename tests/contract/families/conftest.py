"""The models that the suite runs for: every family of the registry, a v-prediction one, and one that a package brings."""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from loraloom import plugins
from loraloom.config.run import RunConfig
from loraloom.models.block_swap import repeated_blocks
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

OFTEN = {"stable_diffusion", "flux2_klein"}
"""A UNet that answers with noise, and a flow transformer. `tiny_flow` is one with two text encoders."""

RARE = {"v_prediction", *(name for name in CASES if plugins.origin("families", name) == plugins.OURS)} - OFTEN

costly = pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.long if name in RARE else ()) for name in CASES], indirect=True
)
"""Marks a test of several whole runs, which takes seconds for each kind of model: it runs for one of ours of each sort.

The others run with `-m long`. A family that another package brings always runs: for its author this suite is the contract.
What is cheap, and one whole run, is tested for every family.
"""


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
class FinishedRun:
    """A finished run.

    Attributes:
        folder: Its run folder is `run` below.
        lines: What it said.
        beside: Kinds of modules with weights that were alive beside the denoiser, at each step.
    """

    folder: Path
    lines: tuple[str, ...]
    beside: tuple[frozenset[str], ...] = ()


@pytest.fixture(scope="package")
def plain_run(case: Case, dataset: Path) -> FinishedRun:
    """Trained once for each case, with samples, in float32 without anything that saves memory."""
    gc.collect()
    kept = modules()  # held, so that no id is used again
    before = {id(found) for found in kept}
    lines: list[str] = []
    beside: list[frozenset[str]] = []

    def look(step: int, numbers: dict[str, float]) -> None:
        alive = [found for found in modules() if id(found) not in before]
        alive = [found for found in alive if any(not weight.is_meta for weight in found.parameters())]
        roots = [
            found for found in alive if repeated_blocks(found) and any(p.requires_grad for p in found.parameters())
        ]
        inside = {id(child) for root in roots for child in root.modules()}
        beside.append(frozenset(type(found).__name__ for found in alive if id(found) not in inside))

    folder = case.folder.parent / "plain"
    own = {"cache_dir": str(folder / "cache")}  # empty, so that encoders and VAE are read
    how: dict[str, dict[str, Any]] = {"samples": {"enabled": True, "steps": 2}, "train": {"log_every": 1}, "data": own}
    train(settings(case, dataset, folder, **how), say=lines.append, report=look)
    return FinishedRun(folder=folder, lines=tuple(lines), beside=tuple(beside))


def modules() -> list[nn.Module]:
    """All that are alive."""
    return [found for found in gc.get_objects() if isinstance(found, nn.Module)]
