"""Folders with a batch size of their own: what a step computes, the ledger, a stop, and another number of ranks."""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from loraloom.config.prepare import PrepareConfig
from loraloom.data.batches import BatchMaker
from loraloom.data.bucket_sampler import Pass
from loraloom.data.manifest import Manifest, fingerprint_of, read_manifest, write_manifest
from loraloom.prepare.run import prepare
from loraloom.protocols.data import Batch
from loraloom.train.run import train
from tests.support.ranks import train_on_ranks
from tests.train.conftest import Configure


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    """Images of one size in two folders: 4 in batches of 3, 3 in batches of 1."""
    root = tmp_path_factory.mktemp("folders")
    draw_folder(root / "raw" / "many", 4, text="one of many, number {n}")
    draw_folder(root / "raw" / "few", 3, text="one of few, number {n}")
    settings = PrepareConfig(
        size=64, bucket_step=16, min_size=16, validation_share=0, num_workers=1, batch_size_of=("many=3", "few=1")
    )
    prepare(root / "raw", root / "dataset", settings, console=lambda text: None)
    return root / "dataset"


def test_each_batch_has_the_size_of_its_folder_and_a_stopped_run_ends_bit_identical(
    configure: Configure, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    make = BatchMaker.make

    def noted(self: BatchMaker, epoch: int, slots: Pass) -> Batch:
        batch = make(self, epoch, slots)
        seen.append(batch.ids)
        return batch

    monkeypatch.setattr(BatchMaker, "make", noted)
    data = {"dataset": str(folders), "batch_size": 2}
    common: dict[str, Any] = {"max_steps": 10, "validation_every": 0}
    lines: list[str] = []
    train(configure(data=data, train={**common, "output": str(tmp_path / "one")}), say=lines.append, cpu=True)
    steps = list(seen)
    assert Counter(len(ids) for ids in steps[:5]) == {3: 1, 1: 4}, "3 + 1 of many, three times 1 of few"
    assert all(len({id_.split("/")[0] for id_ in ids}) == 1 for ids in steps), "folders do not share a batch"
    assert Counter(id_ for ids in steps for id_ in ids) == {row.id: 2 for row in read_manifest(folders).examples}
    assert "batch: 3 per device x 1 accumulation x 1 rank = 3 images a step" in lines
    assert "ledger: 7 images have the batch size of their folder (3 x 1, 4 x 3)" in lines
    rows = [json.loads(line) for line in (tmp_path / "one" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter((row["batch_size"], row["seen_in_run"]) for row in rows) == {(3, 2): 4, (1, 2): 3}

    seen.clear()
    halved = configure(data=data, train={**common, "output": str(tmp_path / "two")})
    for _ in range(20):
        if not train(halved, say=None, cpu=True, deadline=time.monotonic()).finished.stopped:
            break
    assert seen == steps
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    assert all(one[key].equal(two[key]) for key in one)


def test_a_batch_size_of_all_folders_is_that_of_the_run(configure: Configure, folders: Path, tmp_path: Path) -> None:
    """`data.batch_size` 4 and folders of 4 are one thing: same order, same weights."""
    manifest = read_manifest(folders)
    for name, batch in (("plain", None), ("said", 4)):
        rows = [replace(row, batch_size=batch) for row in manifest.examples]
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(folders / "images")
        write_manifest(Manifest(tmp_path / name, rows, manifest.info, fingerprint_of(rows)))
        train_in = {"max_steps": 4, "validation_every": 0, "output": str(tmp_path / f"run {name}")}
        train(configure(data={"dataset": str(tmp_path / name), "batch_size": 4}, train=train_in), say=None, cpu=True)
    one, two = (load_file(tmp_path / f"run {name}" / "adapter.safetensors") for name in ("plain", "said"))
    assert all(one[key].equal(two[key]) for key in one)


@pytest.mark.long
def test_two_ranks_learn_from_folders_what_one_rank_with_the_double_batches_learns(
    configure: Configure, folders: Path, tmp_path: Path
) -> None:
    from loraloom.config.reading import to_yaml

    manifest = read_manifest(folders)
    double = tmp_path / "double"
    double.mkdir()
    (double / "images").symlink_to(folders / "images")
    rows = [replace(row, batch_size=2 * (row.batch_size or 1)) for row in manifest.examples]
    write_manifest(Manifest(double, rows, manifest.info, fingerprint_of(rows)))
    common: dict[str, Any] = {"max_steps": 4, "validation_every": 0}
    alone = configure(
        data={"dataset": str(double), "batch_size": 4}, train={**common, "output": str(tmp_path / "alone")}
    )
    together = configure(
        data={"dataset": str(folders), "batch_size": 2}, train={**common, "output": str(tmp_path / "together")}
    )
    train(alone, say=None, cpu=True)
    (tmp_path / "together.yaml").write_text(to_yaml(together), encoding="utf-8")
    ran = train_on_ranks(tmp_path / "together.yaml", 2)
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("alone", "together"))
    for key in one:
        assert one[key].allclose(two[key], atol=2e-5), (key, float((one[key] - two[key]).abs().max()))
