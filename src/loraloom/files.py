"""Files that appear whole or not at all, and their sums.

In: bytes, text or a directory being filled. Out: the same on disk, after fsync and rename, so that a reader, a crash or
a full disk never meets a half-written file.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Lower-case hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Force a file's or a directory's content to the disk (directories: where the system allows it)."""
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) if path.is_dir() else os.O_RDONLY
    try:
        descriptor = os.open(path, flags)
    except PermissionError:
        if os.name == "nt":  # Windows opens no directory; its rename is journalled
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a neighbour: tmp, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text; line ends are kept as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON with sorted keys and a final line end."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Fill a directory that appears at `path` only when the block ends without an exception.

    Yields a sibling temporary directory. Every file in it is fsynced before the rename, and may be read by whom the user's
    umask lets (safetensors' own writer makes files for their owner only). A directory that already stands at `path` is
    replaced; after an exception nothing of the new one is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        usual = temporary.stat().st_mode & 0o666
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(usual)
            fsync_path(file)
        fsync_path(temporary)
        if path.exists():
            # A directory cannot be renamed over a full one: the old one steps aside first and goes last.
            aside = _step_aside(path)
            temporary.rename(path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(path.parent)


def remove_directory(path: Path) -> None:
    """Delete a directory that a reader or a kill must not meet half deleted: it is renamed first.

    Where it cannot be renamed (gone already, or open on Windows) it stays as it is.
    """
    with suppress(OSError):
        shutil.rmtree(_step_aside(path), ignore_errors=True)


def _step_aside(path: Path) -> Path:
    """Rename a directory to a name that `remove_leftovers` knows; returns that."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def remove_leftovers(folder: Path, min_age_s: float = 0.0) -> None:
    """Delete what `whole_directory`, `remove_directory` and `write_bytes` of killed processes left in `folder`.

    In a folder that other processes may be writing to, `min_age_s` spares what is still being written.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if not (entry.name.startswith(".") and entry.suffix in {".tmp", ".old"}):
            continue
        with suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime < min_age_s:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
