"""Folders as lists of files with sums: what is shipped, whether it arrived, and which file differs between two machines.

In: a folder. Out: a `Manifest`, path -> (bytes, sha256), and one hash of it all; a tar stream of the files. Standard
library only: this runs on the nodes too.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loraloom.utils.atomic_files import sha256_bytes, sha256_file

LEFT_OUT = frozenset(
    {
        ".git",
        ".venv",
        "venv",
        "__pycache__",
        ".pytest_cache",
        ".ruff_cache",
        ".mypy_cache",
        ".hypothesis",
        "node_modules",
        "logs",
        "checkpoints",
        "outputs",
        "runs",
        "wandb",
    }
)
"""Names in a project that are not shipped, wherever they are. A name counts as a whole: `dialogs` and `.gitignore` stay."""

NOT_DATA = frozenset({"cache", ".lock", ".prepare.jsonl"})
"""What a dataset's folder holds beside its data: latents that each node computes itself, and traces of work."""

MANIFEST = ".release.json"
"""The last entry of a shipped release: where it is missing, the stream broke off."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a folder.

    Attributes:
        files: Path with `/` between parts -> size in bytes and sha256.
    """

    files: Mapping[str, tuple[int, str]]

    @property
    def digest(self) -> str:
        """Sha256 over all paths, sizes and sums."""
        rows = [[name, *self.files[name]] for name in sorted(self.files)]
        return sha256_bytes(json.dumps(rows, ensure_ascii=True).encode())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())

    def differences(self, other: "Manifest", limit: int = 5) -> list[str]:
        """The first files that are missing, additional or different in `other`, in order of their paths."""
        lines: list[str] = []
        for name in sorted(self.files.keys() | other.files.keys()):
            here, there = self.files.get(name), other.files.get(name)
            if here == there:
                continue
            kind = "is missing" if there is None else "is additional" if here is None else "differs"
            lines.append(f"{name} {kind}")
            if len(lines) == limit:
                break
        return lines


def walk(
    folder: Path, left_out: frozenset[str] = frozenset(), left_out_above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Relative paths of the regular files below a folder, sorted, `/` between parts. Links are not followed.

    Args:
        folder: Where to look; its own name is never compared with `left_out`.
        left_out: Names that are skipped with all that is in them, wherever they are.
        left_out_above: Names of files and folders that are skipped directly below `folder` only.
    """
    pending = [""]
    found: list[str] = []
    while pending:
        part = pending.pop()
        with os.scandir(folder / part) as entries:
            for entry in entries:
                name = f"{part}/{entry.name}" if part else entry.name
                if entry.name in left_out or (not part and entry.name in left_out_above):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
    yield from sorted(found)


def manifest_of(folder: Path, names: Sequence[str] | None = None) -> Manifest:
    """Sizes and sums of files of a folder; all of them by default."""
    chosen = list(walk(folder)) if names is None else list(names)
    with ThreadPoolExecutor(max_workers=2) as pool:
        sums = list(pool.map(lambda name: sha256_file(folder / name), chosen))
    sizes = [(folder / name).stat().st_size for name in chosen]
    return Manifest({name: (size, sha) for name, size, sha in zip(chosen, sizes, sums, strict=True)})


def cached_manifest(folder: Path, cache: Path) -> Manifest:
    """`manifest_of` a dataset or model, with the sums of files whose size and time of change did not move from `cache`."""
    known: dict[str, list[object]] = {}
    try:
        value = json.loads(cache.read_text("utf-8"))
        known = value if isinstance(value, dict) else {}
    except (OSError, ValueError):
        pass
    names = list(walk(folder, left_out_above=NOT_DATA))
    states = {name: (folder / name).stat() for name in names}
    stamps = {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}
    same = {name: row for name in names if isinstance(row := known.get(name), list) and row[:2] == stamps[name]}
    fresh = manifest_of(folder, [name for name in names if name not in same])
    sums = {name: str(same[name][2]) if name in same else fresh.files[name][1] for name in names}
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps({name: [*stamps[name], sums[name]] for name in names}), "utf-8")
    draft.replace(cache)
    return Manifest({name: (states[name].st_size, sums[name]) for name in names})


def to_json(manifest: Manifest) -> str:
    """The manifest as text."""
    return json.dumps({name: list(row) for name, row in sorted(manifest.files.items())}, ensure_ascii=True)


def from_json(text: str) -> Manifest:
    """`to_json` read back; raises `ValueError` for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a manifest")
    try:
        return Manifest({str(name): (int(row[0]), str(row[1])) for name, row in value.items()})
    except (TypeError, IndexError, KeyError):
        raise ValueError("not a manifest") from None


def write_tar(file: IO[bytes], folder: Path, names: Sequence[str], extra: Mapping[str, bytes] | None = None) -> None:
    """A tar stream of files, then of `extra` texts in their order. The same files give the same bytes."""
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for name in names:
            path = folder / name
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
            with path.open("rb") as content:
                archive.addfile(info, content)
        for name, content in (extra or {}).items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))


def damage(folder: Path) -> list[str]:
    """What is wrong with an unpacked release: the first files that are not as its own list says. Empty: it is whole."""
    try:
        expected = from_json((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return ["the release did not arrive completely"]
    present = {name: row for name, row in expected.files.items() if (folder / name).is_file()}
    return expected.differences(manifest_of(folder, list(present)))


def release_name(manifest: Manifest) -> str:
    """The folder that a release is unpacked to."""
    return f"release-{hashlib.sha256(manifest.digest.encode()).hexdigest()[:12]}"
