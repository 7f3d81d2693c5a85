"""Releases: what is shipped, what is left out, and that a broken stream is seen."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.cluster.deploying import make_archive, make_release, requirements
from loraloom.cluster.trees import (
    LEFT_OUT,
    Manifest,
    cached_manifest,
    damage,
    from_json,
    manifest_of,
    to_json,
    walk,
    write_tar,
)
from loraloom.utils.errors import UserError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_names_are_left_out_as_whole_parts_only(tmp_path: Path) -> None:
    """A wildcard on the full path, such as `*logs*` or `*.git*`, drops `dialogs` and `.gitignore`; or everything."""
    project = fill(
        tmp_path / "logs" / "project.git",
        *("src/dialogs/a.py", ".gitignore", "src/checkpoints.py", "src/loraloom/x.py"),
        *(".git/config", ".venv/bin/python", "logs/a.log", "src/__pycache__/a.pyc", "runs/r/checkpoints/a"),
    )
    assert list(walk(project, LEFT_OUT)) == [
        ".gitignore",
        "src/checkpoints.py",
        "src/dialogs/a.py",
        "src/loraloom/x.py",
    ]


def test_the_git_file_of_a_worktree_is_left_out_as_its_folder_is(tmp_path: Path) -> None:
    assert list(walk(fill(tmp_path, ".git", "a"), LEFT_OUT)) == ["a"]


def test_a_release_arrives_whole_or_is_known_to_be_damaged(tmp_path: Path) -> None:
    project = fill(tmp_path / "project", "src/loraloom/a.py", "src/loraloom/b.py", "pyproject.toml")
    archive = make_archive(make_release(project))
    arrived = tmp_path / "arrived"
    with tarfile.open(archive) as packed:
        packed.extractall(arrived, filter="data")
    assert damage(arrived) == []
    (arrived / "src/loraloom/a.py").write_text("other")
    (arrived / "node.py").unlink()
    assert damage(arrived) == ["node.py is missing", "src/loraloom/a.py differs"]
    data = archive.read_bytes()
    archive.unlink()
    broken = tmp_path / "broken"
    cut = data[: data.rindex(b".release.json")]
    with tarfile.open(fileobj=io.BytesIO(cut + bytes(1024))) as packed:
        packed.extractall(broken, filter="data")
    assert damage(broken) == ["the release did not arrive completely"]


def test_the_same_project_has_the_same_name_and_any_change_another(tmp_path: Path) -> None:
    project = fill(tmp_path, "src/loraloom/a.py")
    name = make_release(project).name
    assert make_release(project).name == name
    fill(project, "src/loraloom/b.py")
    assert make_release(project).name != name


def test_a_folder_without_loraloom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a project with loraloom"):
        make_release(tmp_path)


def test_the_requirements_are_the_installed_versions_without_builds_for_a_gpu() -> None:
    lines = dict(line.split("==") for line in requirements().splitlines())
    assert {"torch", "accelerate", "numpy", "safetensors"} <= lines.keys()
    assert not [name for name in lines if name.startswith(("nvidia", "loraloom", "triton"))]
    assert not [version for version in lines.values() if "+" in version]


def test_a_cached_sum_is_used_until_the_file_changes(tmp_path: Path) -> None:
    data, cache = fill(tmp_path / "data", "images/a.png", "manifest.jsonl", "cache/latents"), tmp_path / "sums.json"
    first = cached_manifest(data, cache)
    assert sorted(first.files) == ["images/a.png", "manifest.jsonl"], "each node computes its own cache"
    (data / "manifest.jsonl").write_text("another caption")
    second = cached_manifest(data, cache)
    assert first.differences(second) == ["manifest.jsonl differs"]
    assert second == cached_manifest(data, cache)
    cache.write_text("{broken")
    assert cached_manifest(data, cache) == second


PATHS = st.dictionaries(st.text("ab/", min_size=1, max_size=4), st.tuples(st.integers(0, 9), st.text("01", max_size=2)))


@given(PATHS, PATHS)
def test_two_manifests_differ_exactly_when_a_difference_is_named(
    one: dict[str, tuple[int, str]], two: dict[str, tuple[int, str]]
) -> None:
    here, there = Manifest(one), Manifest(two)
    assert (here.digest == there.digest) == (not here.differences(there)) == (one == two)
    assert from_json(to_json(here)) == here


def test_the_stream_of_a_folder_depends_on_its_content_only(tmp_path: Path) -> None:
    streams: list[bytes] = []
    for name in ("one", "two"):
        folder = fill(tmp_path / name, "b", "a/c")
        stream = io.BytesIO()
        write_tar(stream, folder, list(manifest_of(folder).files))
        streams.append(stream.getvalue())
    assert streams[0] == streams[1]
