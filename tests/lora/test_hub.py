"""Adapters on the hub: found in a cache laid out as the hub's client does it, without a network."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from loraloom.lora.files import find_adapter, read_adapter
from loraloom.lora.hub import is_hub_place
from loraloom.utils.errors import UserError
from tests.lora.test_averaging import checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Cached = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return checkpoint(tmp_path / "made", 10, 1.0).path.read_bytes()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """`cached("org/name", {"a.safetensors": data})`: a repository in the hub's cache; its snapshot folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def put(repo: str, files: Mapping[str, bytes]) -> Path:
        folder = tmp_path / "hub" / ("models--" + repo.replace("/", "--"))
        (folder / "refs").mkdir(parents=True)
        (folder / "blobs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        for number, (name, data) in enumerate(files.items()):
            blob = folder / "blobs" / f"{number:064x}"
            blob.write_bytes(data)
            link = folder / "snapshots" / COMMIT / name
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(os.path.relpath(blob, link.parent))
            except OSError:  # Windows without the right to make links: the client copies there
                link.write_bytes(data)
        return folder / "snapshots" / COMMIT

    return put


def test_a_repository_of_one_lora_is_read_by_its_id(cached: Cached, weights: bytes) -> None:
    folder = cached("org/style", {"README.md": b"", "style.safetensors": weights, "unet/model.safetensors": b"x"})
    file = read_adapter(Path("org/style"))
    assert file.path == folder / "style.safetensors"
    assert file.record["trigger"] == "sks"


def test_the_usual_name_comes_first_and_a_file_can_be_named(cached: Cached, weights: bytes) -> None:
    names = ("a.safetensors", "pytorch_lora_weights.safetensors", "old/b.safetensors", "checkpoint-500/c.safetensors")
    folder = cached("org/many", dict.fromkeys(names, weights))
    assert find_adapter(Path("org/many")) == folder / "pytorch_lora_weights.safetensors"
    assert find_adapter(Path("org/many/old/b.safetensors")) == folder / "old/b.safetensors"


def test_several_loras_without_a_usual_name_are_listed_with_what_to_write(cached: Cached, weights: bytes) -> None:
    cached("org/two", {"a.safetensors": weights, "b.safetensors": weights})
    with pytest.raises(UserError, match="several files") as caught:
        find_adapter(Path("org/two"))
    assert "a.safetensors, b.safetensors" in str(caught.value)
    assert "org/two/a.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("org/style/other.safetensors", "one of style.safetensors"),
        ("org/pickled", "holds no LoRA in safetensors"),
        ("org/absent", "no such adapter"),
        ("org/absent/a.safetensors", "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(cached: Cached, weights: bytes, place: str, words: str) -> None:
    cached("org/style", {"style.safetensors": weights})
    cached("org/pickled", {"pytorch_lora_weights.bin": b"\x80"})
    with pytest.raises(UserError) as caught:
        find_adapter(Path(place))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "place",
    ["dog", "runs/dog", "../org/name", "/org/name", "a/b/c", "org/name.safetensors", "a b/c", "org/a/../b.safetensors"],
)
def test_a_mistyped_path_is_not_asked_of_the_hub(cached: Cached, place: str) -> None:
    """`runs/dgo` where `runs` is a folder is a typing error, and no name for the hub."""
    Path("runs").mkdir()
    assert not is_hub_place(Path(place))
    with pytest.raises(UserError, match="no such adapter") as caught:
        find_adapter(Path(place))
    assert "hub's cache" not in str(caught.value)


def test_a_lora_of_the_hub_acts_in_a_command(
    cached: Cached, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from loraloom.cli.app import app

    cached("org/style", {"style.safetensors": weights})
    done = CliRunner().invoke(app, ["lora", "info", "org/style"])
    assert done.exit_code == 0, done.output
    assert "sks" in done.output
