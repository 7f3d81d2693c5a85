"""What `train` says when the dataset does not say how it was prepared."""

import shutil
from pathlib import Path

import pytest

from loraloom.data.manifest import INFO_FILE
from loraloom.train.run import train
from loraloom.utils.errors import UserError
from tests.train.conftest import Configure


def test_a_missing_dataset_json_is_one_warning_and_an_error_under_strict(
    tmp_path: Path, configure: Configure, dataset: Path
) -> None:
    """Domain and trigger were lost without a word when somebody copied the manifest and the images only."""
    copy = tmp_path / "copied"
    shutil.copytree(dataset, copy)
    (copy / INFO_FILE).unlink()
    groups = {"data": {"dataset": str(copy)}}
    with pytest.raises(UserError, match=r"--strict is on(.|\n)*the dataset has no dataset\.json"):
        train(configure(train={"strict": True, "max_steps": 1}, **groups), say=lambda line: None)
    said: list[str] = []
    train(configure(train={"max_steps": 1}, **groups), say=said.append)
    assert len([line for line in said if "the dataset has no dataset.json" in line]) == 1
