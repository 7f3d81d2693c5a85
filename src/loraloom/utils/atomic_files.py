"""Files that appear whole or not at all, and their sums.

In: bytes, text or a directory being filled. Out: the same on disk, after fsync and rename, so that a reader, a crash or
a full disk never meets a half-written file.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
_FULL = re.compile(r"No space left on device|os error (?:28|112)\b", re.IGNORECASE)


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


def beside(path: Path, suffix: str = ".tmp") -> Path:
    """Where a file or directory is made, or put aside, before it gets its name: a neighbour that names this process."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}{suffix}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a neighbour: tmp, fsync, rename, fsync of the folder.

    Raises:
        OSError: Names `path` whatever failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the folder may be gone
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
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

    Raises:
        OSError: Names `path`, not the temporary one; of a full disk also where a library makes another error of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(path) as temporary:
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
    fsync_path(path.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that another library writes: yields a place of this name, whose file moves to `path` when the block ends well.

    Raises:
        OSError: As `whole_directory`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)
    fsync_path(path.parent)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, gone after the block; errors of the system about files in it name `path`.

    What killed processes left of the same `path` goes first.
    """
    temporary = beside(path)
    for entry in path.parent.glob(f".{escape(path.name)}.*"):
        with suppress(OSError):
            if _is_leftover(entry.name, entry.lstat().st_mtime, named=True):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    temporary.mkdir()
    try:
        yield temporary
    except BaseException as error:
        if (number := _number_of(error, temporary)) is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _number_of(error: BaseException, folder: Path) -> int | None:
    """The system's number of an error about a file in `folder`, or of a full disk; None of any other."""
    if isinstance(error, OSError):
        ours = error.errno is not None and str(error.filename or folder).startswith(str(folder))
        return error.errno if ours else None
    # Libraries in Rust and C++ say it in words alone: safetensors' own error is no OSError.
    return errno.ENOSPC if _FULL.search(str(error)) else None


def remove_directory(path: Path) -> None:
    """Delete a directory that a reader or a kill must not meet half deleted: it is renamed first.

    Where it cannot be renamed (gone already, or open on Windows) it stays as it is.
    """
    with suppress(OSError):
        shutil.rmtree(_step_aside(path), ignore_errors=True)


def _step_aside(path: Path) -> Path:
    """Rename a directory to a name that `remove_leftovers` knows; returns that."""
    aside = beside(path, ".old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def remove_leftovers(folder: Path, *, deep: bool = False, named: bool = False) -> None:
    """Delete what `whole_directory`, `remove_directory` and `write_bytes` of killed processes left in `folder`.

    What a running process of this machine is writing stays. Of another machine's processes nothing is known: theirs goes
    once it is an hour old, and so does what does not name its process.

    Args:
        folder: Nothing happens when there is none.
        deep: In the folders below it too; links are not followed.
        named: Only what names its process, for folders that hold files of their user too.
    """
    pending = [folder]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            with suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                if not _is_leftover(entry.name, entry.stat(follow_symlinks=False).st_mtime, named=named):
                    pending += [Path(entry.path)] if deep and is_folder else []
                elif is_folder:
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink()


_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_LEFTOVER = re.compile(r"\..+\.(?:([0-9a-f]{6})-)?(\d{1,9})\.(?:tmp|old)")
_LONG_DEAD_S = 3600.0


def _is_leftover(name: str, changed: float, *, named: bool) -> bool:
    match = _LEFTOVER.fullmatch(name)
    if match and match[1] == _HOST:
        # Our own number is that of an earlier life too: in containers it is often the same.
        return int(match[2]) == os.getpid() or not runs(int(match[2]))
    ours = match is not None or (not named and name.startswith(".") and name.endswith((".tmp", ".old")))
    return ours and time.time() - changed > _LONG_DEAD_S


def runs(pid: int) -> bool:
    """Whether a process of this number runs on this machine; when in doubt it does."""
    if os.name == "nt":
        import ctypes

        # os.kill would send the process a signal there, whatever the number.
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # pyright: ignore[reportAttributeAccessIssue]
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return ctypes.get_last_error() == 5  # it is there and another user's
        code = ctypes.c_ulong()
        known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return not known or code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
