"""Caches precomputed in parts, by machines that know nothing of each other, are those of one machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from loraloom.cli import cache_command as command
from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.train.precompute_parts import precompute_part
from loraloom.train.run import train
from loraloom.utils.errors import UserError
from loraloom.utils.parts import Part
from tests.train.conftest import Configure


def files(folder: Path) -> dict[str, tuple[dict[str, str], dict[str, bytes]]]:
    """Metadata and bytes of the tensors of every file; safetensors writes metadata in random order."""
    found: dict[str, tuple[dict[str, str], dict[str, bytes]]] = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
            found[path.relative_to(folder).as_posix()] = (file.metadata(), tensors)
    return found


def in_folder(configure: Configure, folder: Path) -> RunConfig:
    return configure(data={"cache_dir": str(folder), "random_flip": True, "encode_batch_size": 1})


def test_parts_of_a_cache_are_disjoint_and_together_are_exactly_the_whole(configure: Configure, tmp_path: Path) -> None:
    whole = precompute_part(in_folder(configure, tmp_path / "whole"), cpu=True)
    assert (whole.images, whole.captions) == (whole.images_needed, whole.captions_needed)
    made = [precompute_part(in_folder(configure, tmp_path / f"{k}"), Part(k, 3), cpu=True) for k in (1, 2, 3)]
    assert sum(part.images for part in made) == whole.images_needed == 13
    assert sum(part.captions for part in made) == whole.captions_needed == 8
    assert made[0].images_missing == 8
    for number in (1, 2, 3):
        shutil.copytree(tmp_path / f"{number}", tmp_path / "joined", dirs_exist_ok=True)
    assert files(tmp_path / "joined") == files(tmp_path / "whole")


def test_a_training_after_all_parts_encodes_nothing(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_folder(configure, tmp_path / "cache")
    for number in (1, 2):
        precompute_part(config, Part(number, 2), cpu=True)
    before = files(tmp_path / "cache")
    monkeypatch.setattr("loraloom.data.encode.LatentStore._encode", None)
    monkeypatch.setattr("loraloom.data.encode.TextStore._encode", None)
    train(config, say=None, cpu=True)
    assert files(tmp_path / "cache") == before


@pytest.mark.long
def test_the_command_precomputes_on_two_processes_and_says_what_other_parts_still_have_to_do(
    configure: Configure, tmp_path: Path
) -> None:
    config = in_folder(configure, tmp_path / "cache")
    (tmp_path / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    line = [
        sys.executable,
        "-m",
        "loraloom",
        "cache",
        "precompute",
        config.data.dataset,
        "--config",
        str(tmp_path / "run.yaml"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "30000"}
    ran = subprocess.run(
        [*line, "--part", "1/2", "--num-processes", "2", "--cpu"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "part 1/2: 7 images and 4 captions encoded" in ran.stdout
    assert "still missing: 6 of 13 images and 4 of 8 captions" in ran.stdout
    lines: list[str] = []
    place = command.Place(Path(config.data.dataset), None, None, None, tmp_path / "run.yaml", ())
    assert command.precompute(place, "2/2", None, lines.append, cpu=True) == 0
    assert lines[-1] == "nothing is missing: 13 images and 8 captions"


def test_a_cache_that_is_off_is_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"data\.cache is off"):
        precompute_part(configure(data={"cache": False}), cpu=True)
