"""This machine as a host: commands run as children of the master."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loraloom.protocols.transport import Answer, Endpoint, LinkLostError
from loraloom.utils.errors import UserError


class LocalConnection:
    """Runs commands here, in the home folder, as a login would."""

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        """As `Connection.run`."""
        with contextlib.ExitStack() as files:
            stdin = files.enter_context(data.open("rb")) if isinstance(data, Path) else asyncio.subprocess.PIPE
            stdout = files.enter_context(output.open("wb")) if output else asyncio.subprocess.PIPE
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.PIPE, cwd=Path.home()
                )
            except OSError as error:
                raise UserError(f"{argv[0]} cannot be started here ({error.strerror or error})", got=argv[0]) from None
            given = data if isinstance(data, bytes) else None
            try:
                async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 may swallow a cancellation
                    out, errors = await process.communicate(given)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise LinkLostError(f"no answer in {timeout_s:g} s") from None
        assert process.returncode is not None
        return Answer(status=process.returncode, output=out or b"", errors=errors or b"")

    async def close(self) -> None:
        """Nothing is open."""


class LocalTransport:
    """This machine."""

    name = "local"
    secure = True

    async def connect(self, endpoint: Endpoint) -> LocalConnection:
        """As `Transport.connect`; the address is not looked at."""
        if endpoint.windows != (os.name == "nt"):
            system = "windows" if os.name == "nt" else "linux"
            raise UserError("a local host has another system than this machine", expected=f'"System": "{system}"')
        return LocalConnection()


TRANSPORT = LocalTransport()
