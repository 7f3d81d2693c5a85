"""An adapter that changes images much, written as training writes it, and sessions that draw small and fast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loraloom.config.generate import GenerateConfig
from loraloom.config.run import LoraConfig, PromptMethod
from loraloom.generate.session import Session, open_session
from loraloom.lora.files import save_adapter
from loraloom.lora.inject import attach_new
from loraloom.lora.stack import Scale
from loraloom.models.loading import open_model
from loraloom.protocols.model import ModelSource

MakeAdapter = Callable[..., Path]
OpenSession = Callable[..., Session]

QUICK = {"steps": 2, "guidance_scale": 3.0, "width": 32, "height": 32}


@pytest.fixture(scope="session")
def make_adapter(tiny_model: Path) -> MakeAdapter:
    """`make_adapter(folder, seed=0, text_encoder=False, **record)`: a run folder with a trained-looking adapter.safetensors."""

    def make(folder: Path, seed: int = 0, *, text_encoder: bool = False, **record: Any) -> Path:
        model = open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")
        adapter = attach_new(model, LoraConfig(rank=4, text_encoder=text_encoder), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapter.parameters.values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        said = {
            "rank": 4, "alpha": 4.0, "prompt_method": "attention", "size": "32x32", "domain": "freetext",
            "base": {"source": str(tiny_model)}, "base_sha256": model.modules.fingerprint("denoiser"), **record,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(folder / "adapter.safetensors", adapter.state(), said)
        return folder

    return make


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    return make_adapter(tmp_path_factory.mktemp("runs") / "dog")


@pytest.fixture
def session_of(tiny_model: Path) -> OpenSession:
    """`session_of(adapters=[(path, scale)], seed=3)`: a session on the tiny model with quick settings."""

    def make(
        adapters: list[tuple[Path, Scale]] | None = None,
        say: Any = print,
        method: PromptMethod | None = None,
        domain: str | None = None,
        **settings: Any,
    ) -> Session:
        return open_session(
            GenerateConfig.model_validate({**QUICK, **settings}),
            source=ModelSource(location=str(tiny_model)),
            adapters=adapters or [],
            method=method,
            domain=domain,
            changing=True,
            say=say,
        )

    return make
