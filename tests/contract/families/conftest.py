"""The models that the suite runs for: every family of the registry, a v-prediction one, and one that a package brings."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins

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
