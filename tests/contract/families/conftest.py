"""The models that the suite runs for: every family of the registry, a v-prediction one, and one that a package brings."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.models.loading import open_model
from loraloom.prepare.run import prepare
from loraloom.protocols.model import DiffusionModel, ModelSource

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
def dataset(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    """Five images of two sizes, prepared."""
    root = tmp_path_factory.mktemp("dataset")
    source = draw_folder(root / "source", 5, [(64, 64), (96, 48)], text="a drawn image, number {n}")
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1)
    prepare(source, root / "dataset", settings, console=lambda text: None)
    return root / "dataset"
