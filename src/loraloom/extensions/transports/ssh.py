"""OpenSSH on Linux, macOS and Windows, through asyncssh: keys or an agent log in, the host's key must be a known one."""

import asyncio
import re
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loraloom.protocols.transport import Answer, Endpoint, LinkLostError
from loraloom.utils.errors import UserError

CONNECT_S = 4.0
KEEPALIVE_S = 2.0
KEEPALIVES = 3
"""Keepalives without an answer after which a link is lost: 6 to 8 seconds."""


class SshConnection:
    """One login; each command has a channel of its own."""

    def __init__(self, connection: Any, endpoint: Endpoint) -> None:
        self._connection = connection
        self._endpoint = endpoint

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        """As `Connection.run`."""
        import asyncssh  # pyright: ignore[reportMissingImports]

        line = quote(argv, windows=self._endpoint.windows)
        options: dict[str, Any] = {"encoding": None}
        if isinstance(data, Path):
            options["stdin"] = str(data)
        elif not data:  # a command that reads its input would wait for the end of it for ever
            options["stdin"] = asyncssh.DEVNULL
        if output is not None:
            options["stdout"] = str(output)
        try:
            async with asyncio.timeout(timeout_s):
                process = await self._connection.create_process(line, **options)
                if data and not isinstance(data, Path):
                    with suppress(BrokenPipeError):  # the command has ended without reading all of it
                        process.stdin.write(data)
                        process.stdin.write_eof()
                done = await process.wait()
        except TimeoutError:
            raise LinkLostError(f"no answer in {timeout_s:g} s") from None
        except (asyncssh.Error, OSError) as error:
            raise LinkLostError(_text(error)) from None
        if done.exit_status is None:  # the link broke: asyncssh does not raise
            raise LinkLostError("the connection broke")
        status = done.returncode if done.returncode is not None else done.exit_status
        if status == 127 or (self._endpoint.windows and status == 9009):
            shown = bytes(done.stderr or b"").decode("utf-8", "replace").strip()[-200:]
            raise UserError(f"{argv[0]} does not run on {self._endpoint.address}", got=shown)
        return Answer(status=status, output=bytes(done.stdout or b""), errors=bytes(done.stderr or b""))

    async def close(self) -> None:
        """As `Connection.close`."""
        self._connection.abort()
        with suppress(Exception):
            async with asyncio.timeout(2):
                await self._connection.wait_closed()


class SshTransport:
    """SSH with host keys that are known."""

    name = "ssh"
    secure = True

    async def connect(self, endpoint: Endpoint) -> SshConnection:
        """As `Transport.connect`."""
        try:
            import asyncssh  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("ssh needs asyncssh", fix="install loraloom[cluster]") from None
        options: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "login_timeout": 2 * CONNECT_S,
            "keepalive_interval": KEEPALIVE_S,
            "keepalive_count_max": KEEPALIVES,
            "preferred_auth": "publickey",
        }
        if endpoint.port:
            options["port"] = endpoint.port
        if endpoint.user:
            options["username"] = endpoint.user
        if endpoint.key_file:
            key = Path(endpoint.key_file).expanduser()
            if not key.is_file():
                raise UserError("the key file is missing", got=str(key), fix="make one with ssh-keygen -t ed25519")
            options |= {"client_keys": [str(key)], "agent_path": None}
        if endpoint.known_hosts:
            options["known_hosts"] = str(Path(endpoint.known_hosts).expanduser())
        try:
            return SshConnection(await asyncssh.connect(endpoint.address, **options), endpoint)
        except asyncssh.HostKeyNotVerifiable:
            scan = f"ssh-keyscan{f' -p {endpoint.port}' if endpoint.port else ''} {endpoint.address}"
            raise UserError(
                f"the host key of {endpoint.address} is not known",
                fix=f"compare the key that worker_setup printed, then: {scan} >> ~/.ssh/known_hosts",
            ) from None
        except asyncssh.PermissionDenied:
            raise UserError(
                f"{endpoint.address} refuses the login",
                got=endpoint.user or "the name of this account",
                fix="run worker_setup there with your public key, or set User and KeyFile in workers.json",
            ) from None
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise UserError(
                f"the key for {endpoint.address} cannot be read ({_text(error)})",
                got=endpoint.key_file,
                fix="load it into the SSH agent: ssh-add",
            ) from None
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise LinkLostError(_text(error)) from None


def quote(argv: Sequence[str], *, windows: bool) -> str:
    """One line of arguments for the login shell of a host.

    Windows' `cmd` reads `%` and others even between quotes: such an argument is refused, never changed.

    Raises:
        UserError: An argument has a character that cannot be quoted.
    """
    if not windows:
        return shlex.join(argv)
    for argument in argv:
        if re.search(r"[\x00-\x1f\"%!&|<>^`$;']", argument):
            raise UserError("a Windows host cannot be given this argument", got=argument)
    return subprocess.list2cmdline(argv)


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return (getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)[:200]


TRANSPORT = SshTransport()
