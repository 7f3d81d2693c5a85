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

from loraloom.generate.saving import part_of
from loraloom.protocols.generation import ImageRequest


def run(model: Path, out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loraloom", "generate", "a", "b", "--model", str(model), "--out", str(out)]
    options = ["--steps", "2", "--num-images", "3", "--batch-size", "2", "--width", "64", "--height", "64", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
def test_two_processes_generate_the_files_of_one(tiny_model: Path, tmp_path: Path) -> None:
    for name, more in {"one": [], "two": ["--num-processes", "2"]}.items():
        ran = run(tiny_model, tmp_path / name, *more)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    names = [
        sorted(path.name for path in (tmp_path / name).iterdir() if path.name != ".lock") for name in ("one", "two")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 8
    for name in names[0]:
        if name.endswith(".png"):
            with Image.open(tmp_path / "one" / name) as first, Image.open(tmp_path / "two" / name) as second:
                assert np.array_equal(np.asarray(first), np.asarray(second)), name
                assert first.info == second.info
    lists = [(tmp_path / name / "prompts.jsonl").read_text(encoding="utf-8") for name in ("one", "two")]
    assert lists[0] == lists[1]
    refused = run(tiny_model, tmp_path / "two", "--num-processes", "2", "--domain", "floorplan")
    assert refused.returncode == 2
    assert refused.stderr.count("error: ") == 1, refused.stderr
    assert not list((tmp_path / "two").glob(".rank_*"))


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
