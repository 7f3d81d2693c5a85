"""Block swap where it cannot help is refused in a line, before anything is read or encoded."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from loraloom.config.run import RunConfig
from loraloom.train.run import train
from loraloom.train.swapping import ON_CPU, check_block_swap
from loraloom.utils.errors import UserError

from .conftest import Configure


def test_a_machine_without_a_gpu_is_told_so_before_anything_is_encoded(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ON_CPU, raising=False)
    with pytest.raises(UserError, match="this run has no GPU") as error:
        train(configure(train={"block_swap": 0.5}), say=lambda line: None, cpu=True)
    assert "train.block_swap=0.5" in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_a_gpu_is_what_block_swap_asks_for() -> None:
    check_block_swap(RunConfig.model_validate({"train": {"block_swap": 4}}), torch.device("cuda"))
    check_block_swap(RunConfig(), torch.device("cpu"))


@pytest.mark.parametrize("other", [{"method": "full"}, {"compile": True}])
def test_what_block_swap_cannot_go_with_is_refused_by_both_names(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=rf"train\.block_swap .*train\.{next(iter(other))}"):
        RunConfig.model_validate({"train": {"block_swap": 0.5, **other}})
