"""`generate --num-processes`: the files of one process, from several."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loraloom.cli.generate_command import GenerateOptions, generate
from loraloom.cli.interactive import no_bars
from loraloom.config.generate import GenerateConfig
from loraloom.generate.saving import part_of
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.errors import UserError
from loraloom.utils.ranks import SUPERVISED


def run(model: Path, out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loraloom", "generate", "a", "b", "--model", str(model), "--out", str(out)]
    options = ["--steps", "2", "--num-images", "3", "--batch-size", "2", "--width", "64", "--height", "64", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.long
def test_two_processes_generate_the_files_of_one(tiny_model: Path, tmp_path: Path) -> None:
    generate(
        GenerateConfig(steps=2, num_images=3, batch_size=2, width=64, height=64),
        GenerateOptions(prompts=("a", "b"), model=str(tiny_model), out=tmp_path / "one"),
        {},
        lambda line: None,
        no_bars,
    )
    ran = run(tiny_model, tmp_path / "two", "--num-processes", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    names = [sorted(path.name for path in (tmp_path / n).iterdir() if path.name != ".lock") for n in ("one", "two")]
    assert names[0] == names[1]
    assert len(names[0]) == 8
    for name in names[0]:
        if name.endswith(".png"):
            with Image.open(tmp_path / "one" / name) as first, Image.open(tmp_path / "two" / name) as second:
                difference = np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16))
                assert difference.max() <= 1, "threads may differ"
                assert first.info == second.info
    lists = [(tmp_path / name / "prompts.jsonl").read_text(encoding="utf-8") for name in ("one", "two")]
    assert lists[0] == lists[1]


def test_a_domain_that_verifies_images_is_refused_rather_than_not_verified(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {SUPERVISED: "1", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    options = GenerateOptions(prompts=("a",), model=str(tiny_model), domain="floorplan", out=tmp_path / "out")
    with pytest.raises(UserError, match="--num-processes does not verify images yet"):
        generate(GenerateConfig(), options, {}, lambda line: None, no_bars)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.sampled_from([64, 96]), min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 5))
def test_ranks_share_out_the_batches_of_one_process(widths: list[int], batch: int, ranks: int) -> None:
    requests = [
        ImageRequest(
            prompt="a",
            negative_prompt="",
            seed=seed,
            num_steps=1,
            guidance_scale=1.0,
            sampler="ddim",
            width=width,
            height=64,
        )
        for seed, width in enumerate(widths)
    ]
    parts = [part_of(requests, batch, rank, ranks) for rank in range(ranks)]
    assert sorted(item[0] for part in parts for item in part) == list(range(len(requests)))
    whole = part_of(requests, batch, 0, 1)
    assert all([item for item in whole if item in part] == part for part in parts)
