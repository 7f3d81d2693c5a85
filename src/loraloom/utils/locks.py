"""One process at a time in a folder, held by the system: a crash or a kill lets go of it.

In: a folder that a command is about to fill. Out: the folder's `.lock`, locked while the block runs, with the holder's
process id and host in it. Where the file system knows no locks, a warning, and the work goes on.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loraloom.utils.errors import UserError

LOCK_NAME = ".lock"
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_FAR = 1 << 30
"""Windows locks bytes, and then nobody else may read them: a byte beyond the text is locked."""
_MAX_TEXT = 200
_descriptors: set[int] = set()
"""Of the locks that this process holds."""


def _forget_in_child() -> None:
    """A forked worker shares its parent's locks: it would hold them on after the parent was killed."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def lock_folder(folder: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold `folder` for this process while the block runs; it is made if it is not there, and goes again if it stays empty.

    Of processes that work together only one may call this.

    Raises:
        UserError: Another process holds it; names process and host.
        OSError: The folder cannot be made or written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    descriptor = _open_locked(path, say)
    if descriptor is None:
        yield
        return
    _descriptors.add(descriptor)
    try:
        with suppress(OSError):  # on a full disk it is locked without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode()[:_MAX_TEXT])
        yield
    finally:
        _descriptors.discard(descriptor)
        _let_go(path, descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _open_locked(path: Path, say: Callable[[str], None]) -> int | None:
    """A descriptor of the locked file; None where the file system has no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _HELD:
                raise UserError(
                    f"another process is at work in {path.parent}", got=holder,
                    fix="wait until it ends, stop it, or choose another --out",
                ) from None  # fmt: skip
            say(
                f"warning: {path.parent} cannot be locked ({error.strerror or error}): nothing keeps a second process "
                "from writing there too"
            )
            return None
        # Who held it before may have removed the file between our opening and our locking it.
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _let_go(path: Path, descriptor: int) -> None:
    if os.name == "nt":  # an open file cannot be removed there
        _unlock(descriptor)
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
        return
    with suppress(OSError):
        # Removed while it is held, and only when it is still ours: the folder may have been made anew.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()
    os.close(descriptor)


def _holder(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, _MAX_TEXT).decode("utf-8", "replace").strip()
        if text:
            return text if text.isprintable() else ascii(text)
    return "a process that does not say which"


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
