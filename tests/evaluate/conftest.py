"""Adapters of the tiny model that generate small images quickly, a dataset, and `evaluate` with quick settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraloom.config.evaluate import EvaluateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.evaluate.run import EvaluateOptions, Evaluation, evaluate
from loraloom.prepare.run import prepare
from tests.generate.conftest import adapter, make_adapter, session_of
from tests.support.images import folder_of

__all__ = ["adapter", "make_adapter", "session_of"]

QUICK = {
    "extractor": "builtin:mini",
    "num_prompts": 2,
    "num_seeds": 2,
    "steps": 1,
    "num_probes": 2,
}
Score = Callable[..., Evaluation]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of 32 pixels, some held out, whose captions begin with the trigger word `sks`."""
    raw = folder_of(tmp_path_factory.mktemp("raw"), 12)
    out = tmp_path_factory.mktemp("data") / "set"
    values = {"size": 32, "bucket_step": 8, "min_size": 8, "trigger": "sks", "validation_share": 0.25, "num_workers": 1}
    prepare(raw, out, read_settings(PrepareConfig, values=values), console=lambda line: None)
    return out


@pytest.fixture
def scored() -> Score:
    """`scored(tmp_path, images=..., lora=..., reference=..., said=[], **settings)`: an evaluation."""

    def run(out: Path, said: list[str] | None = None, **given: Any) -> Evaluation:
        named = {name: given.pop(name, None) for name in ("images", "lora", "reference", "base", "domain")}
        config = read_settings(EvaluateConfig, values={**QUICK, **given})
        say = (said if said is not None else []).append
        return evaluate(config, EvaluateOptions(out=out, **named), say, lambda title: lambda done, total: None)

    return run
