"""One process at a time in a folder, held by the system: a crash or a kill lets go of it.

In: a folder that a command is about to fill. Out: the folder's `.lock`, locked while the block runs, with the holder's
process id and host in it. On a file system without locks, a warning is printed and the work continues. A folder that is removed
and made anew while the block runs has another lock: `FolderLock.renew` takes that one too, or ends the work.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loraloom.utils.atomic_files import remove_leftovers
from loraloom.utils.errors import UserError

LOCK_NAME = ".lock"
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_FAR = 1 << 30
"""Windows locks bytes, and then nobody else may read them: a byte beyond the text is locked."""
_MAX_TEXT = 200
_descriptors: set[int] = set()
"""File descriptors of the locks that this process holds."""


def _forget_in_child() -> None:
    """A forked worker shares its parent's locks: it would hold them on after the parent was killed."""
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class FolderLock:
    """The lock of a folder, held.

    Args:
        folder: The locked folder.
        descriptor: Descriptor of its locked file; None where the file system knows no locks.
        say: Takes a warning if the folder was removed.
    """

    def __init__(self, folder: Path, descriptor: int | None, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        self._descriptor = descriptor
        self._keep(descriptor)

    def renew(self) -> bool:
        """Check that the folder is still the locked one; call it before writing there.

        Returns:
            Whether it was removed since the last call: it is there again, empty, and held.

        Raises:
            UserError: Another process made it anew and holds it.
        """
        if self._descriptor is None or self._is_ours():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._say(
            f"warning: {self.folder} was removed while it was written to: it is made again; what was in it is gone"
        )
        descriptor = _open_locked(self.folder / LOCK_NAME, self._say)
        self.release()
        self._descriptor = descriptor
        self._keep(descriptor)
        return True

    def release(self) -> None:
        """Release the lock; does nothing without a lock."""
        if self._descriptor is not None:
            _descriptors.discard(self._descriptor)
            _let_go(self.folder / LOCK_NAME, self._descriptor)
            self._descriptor = None

    def _is_ours(self) -> bool:
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.fstat(self._descriptor), (self.folder / LOCK_NAME).stat())
        except OSError:
            return False

    @staticmethod
    def _keep(descriptor: int | None) -> None:
        if descriptor is None:
            return
        _descriptors.add(descriptor)
        with suppress(OSError):  # on a full disk it is locked without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode()[:_MAX_TEXT])


@contextmanager
def lock_folder(folder: Path, say: Callable[[str], None] = print, *, deep: bool = False) -> Iterator[FolderLock]:
    """Hold `folder` for this process while the block runs; it is made if it is not there, and goes again if it stays empty.

    Temporary files that killed processes left there go first; with `deep` those in the folders below it too. Of processes
    that work together only one may call this.

    Raises:
        UserError: Another process holds it; names process and host.
        OSError: The folder cannot be made or written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, _open_locked(folder / LOCK_NAME, say), say)
    try:
        remove_leftovers(folder, deep=deep, named=True)
        yield lock
    finally:
        lock.release()
        if made:
            with suppress(OSError):
                folder.rmdir()


def refuse_if_held(folder: Path) -> None:
    """Ask whether another process holds `folder`; makes nothing there, and holds nothing afterwards.

    For commands that reach `lock_folder` late, so that a busy folder is an error at once.

    Raises:
        UserError: As `lock_folder`.
    """
    with suppress(OSError, ValueError):
        if (folder / LOCK_NAME).is_file():
            descriptor = _open_locked(folder / LOCK_NAME, lambda text: None)
            if descriptor is not None:
                _unlock(descriptor)
                os.close(descriptor)


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
                    f"another process is at work in {path.parent}",
                    got=holder,
                    fix="wait until it ends, stop it, or choose another --out",
                ) from None
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
        # Removed while locked, and only if it is still ours: the folder may have been created again.
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
