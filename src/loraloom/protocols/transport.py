"""Interfaces of a transport: connect to a host, run a command there with a stream of bytes in and out.

A transport is an extension: `TRANSPORT` in `extensions/transports/<name>.py`. Copying a folder is running `tar` with a
stream; a process that outlives its connection is started by the node agent. So two methods are enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_FAULTS = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
    "Cannot allocate memory",
    "not enough space on the disk",
)
"""What systems say of a fault that is not the program's."""


class LinkLostError(Exception):
    """The host does not answer, or stopped answering. It may answer again: nothing is known of what runs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to reach a host.

    Attributes:
        address: IP address or name.
        port: TCP port; None: the transport's own default.
        user: Account on the host; None: the transport's own default.
        key_file: Private key of the master; None: the SSH agent and the default keys.
        known_hosts: File with the host's public key (ssh), or the host's certificate as PEM (psrp); None: the default.
        windows: Whether the host runs Windows, which decides how an argument is quoted.
    """

    address: str
    port: int | None = None
    user: str | None = None
    key_file: str | None = None
    known_hosts: str | None = None
    windows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a finished command left.

    Attributes:
        status: Exit status; negative: the number of the signal that ended it.
        output: Bytes of stdout; empty when they went to a file.
        errors: Bytes of stderr.
    """

    status: int
    output: bytes
    errors: bytes

    @property
    def message(self) -> str:
        """The line of stderr, or of stdout where stderr is empty, that says why: a fault of the system, else the last one.

        Programs such as tar name the fault first and end with a line that says nothing of it.
        """
        text = (self.errors.strip() or self.output.strip()).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines()]
        why = next((line for line in lines if any(fault in line for fault in _FAULTS)), lines[-1] if lines else "")
        return why[:300]


class Connection(Protocol):
    """An open connection to one host. Several commands may run at the same time."""

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        """Run a command and wait for its end.

        Args:
            argv: Program and arguments; never a shell string.
            data: Bytes for stdin, or a file whose content is streamed.
            output: File that receives stdout; None: it is returned.
            timeout_s: Seconds after which the command is given up.

        Raises:
            LinkLostError: The connection broke, or the time was over. The command may still run there.
            UserError: The program does not exist, or an argument cannot be quoted for that host.
        """
        ...

    async def close(self) -> None:
        """Close the connection; commands that still run are given up."""
        ...


class Transport(Protocol):
    """One way to reach hosts.

    Attributes:
        name: Its key among the extensions.
        secure: Whether the host proves who it is and the stream is encrypted.
    """

    name: str
    secure: bool

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Connect and log in.

        Raises:
            LinkLostError: Nothing answers at that address.
            UserError: The host answers but refuses the login, or its identity is not the known one.
        """
        ...
