"""A small prepared dataset and a way to write run settings in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loraloom.config.run import RunConfig
from loraloom.data.manifest import read_manifest

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def dataset(draw_dataset: Callable[..., Path]) -> Path:
    """Seven images of two sizes with captions, one or two of them held out."""
    return draw_dataset(7, [(64, 64), (96, 48)], size=64, validation_share=0.2)


def first_colour(dataset: Path) -> str:
    """The upper left colour of the first image to learn from, `#rrggbb`."""
    manifest = read_manifest(dataset)
    with Image.open(manifest.path(manifest.split("train")[0])) as image:
        return "#" + np.asarray(image.convert("RGB"))[0, 0].tobytes().hex()


@pytest.fixture
def configure(tmp_path: Path, tiny_model: Path, dataset: Path) -> Configure:
    """`configure(train={...}, lora={...})`: quick settings with the given ones on top."""

    def make(**groups: dict[str, Any]) -> RunConfig:
        tree: dict[str, dict[str, Any]] = {
            "model": {"source": str(tiny_model)},
            "data": {"dataset": str(dataset), "batch_size": 2, "cache_dir": str(tmp_path / "cache")},
            "train": {"output": str(tmp_path / "run"), "max_steps": 6, "log_every": 2, "validation_every": 3},
            "checkpoints": {"every": 3},
            "optim": {"learning_rate": 1e-3},
            "samples": {"enabled": False},
            "export": {"verify": False},
        }
        for name, values in groups.items():
            tree.setdefault(name, {}).update(values)
        return RunConfig.model_validate(tree)

    return make
