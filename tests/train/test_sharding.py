"""`--shard`: weights split over ranks learn what whole ones learn, and their checkpoints serve any number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.train.run import train
from loraloom.utils.safetensors_io import read_tensors
from tests.support.ranks import train_on_ranks

from .conftest import Configure
from .test_full import weights

FULL = {"method": "full"}
STATE = "checkpoints/step_0000002/state.safetensors"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_split_weights_learn_what_whole_ones_learn_and_resume_exactly_where_they_stopped(
    configure: Configure, tmp_path: Path
) -> None:
    def settings(name: str, steps: int, batch_size: int, **train: Any) -> RunConfig:
        return configure(
            train={"method": "full", "max_steps": steps, "output": str(tmp_path / name), **train},
            data={"batch_size": batch_size},
            lora={"ema_decay": 0.9},
            checkpoints={"every": 2},
            export={"dtype": "fp32"},
            optim={"learning_rate": 1e-4},
            samples={"enabled": True, "steps": 2, "sampler": "ddim", "prompts": ["a", "b", "c"]},
        )

    train(settings("whole", 4, 4), say=lambda text: None, cpu=True)
    for steps in (2, 4):
        path = tmp_path / f"{steps}.yaml"
        path.write_text(to_yaml(settings("split", steps, 2, shard=True)), encoding="utf-8")
        ran = train_on_ranks(path, 2)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        assert "split over 2 ranks" in ran.stdout
    whole, split = (weights(tmp_path / name / "model") for name in ("whole", "split"))
    for key, value in whole.items():
        torch.testing.assert_close(split[key], value, atol=2e-5, rtol=0)
    shapes = [
        {key: value.shape for key, value in read_tensors(tmp_path / name / STATE)[0].items()}
        for name in ("whole", "split")
    ]
    assert shapes[0] == shapes[1], "the checkpoint of split weights is the checkpoint of whole ones"
    images = sorted(path.name for path in (tmp_path / "split/samples/step_0000004").glob("*.png"))
    assert images == ["gpu_0_sample.png", "gpu_0_sample_2.png", "gpu_1_sample.png", "gpu_1_sample_2.png"]


def test_what_cannot_be_split_is_refused_with_its_reason(configure: Configure) -> None:
    for settings, reason in (
        ({"train": {"shard": True}}, "method is lora"),
        ({"train": {**FULL, "shard": True, "compile": True}}, "exclude each other"),
        ({"train": {**FULL, "shard": True}, "lora": {"text_encoder": True}}, "denoiser only"),
        ({"train": {**FULL, "shard": True}, "optim": {"optimizer": "muon"}}, "whole matrices"),
    ):
        with pytest.raises(ValueError, match=reason):
            configure(**settings)
