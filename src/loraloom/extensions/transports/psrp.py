"""PowerShell Remoting over HTTPS, through pypsrp: for Windows hosts without an SSH server; slow for large files.

The host's certificate, which `worker_setup.ps1` writes, is pinned. The login is that of the running account (Kerberos,
NTLM through the system), or a password from the environment variable LORALOOM_PSRP_PASSWORD or the keyring; none is read
from a file or an argument. Never run against a real Windows host by this project's tests.
"""

import asyncio
import base64
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loraloom.protocols.transport import Answer, Endpoint, LinkLostError
from loraloom.utils.errors import UserError

PORT = 5986
LATE = "loraloom: no answer in time"
"""What `SCRIPT` throws when its program takes too long."""
INLINE_BYTES = 100_000
"""Bytes of stdin that travel as an argument; more are copied as a file first."""

SCRIPT = """\
param([string]$Program, [string]$Line, [string]$Data, [string]$File, [int]$Milliseconds)
$ErrorActionPreference = 'Stop'
$folder = Join-Path -Path $env:TEMP -ChildPath ([Guid]::NewGuid().ToString())
New-Item -ItemType Directory -Path $folder | Out-Null
try {
    $source = $File
    if ($source -eq '') {
        $source = Join-Path -Path $folder -ChildPath 'in'
        [System.IO.File]::WriteAllBytes($source, [Convert]::FromBase64String($Data))
    }
    $out = Join-Path -Path $folder -ChildPath 'out'
    $err = Join-Path -Path $folder -ChildPath 'err'
    $options = @{ FilePath = $Program; NoNewWindow = $true; PassThru = $true; WorkingDirectory = $env:USERPROFILE }
    $options += @{ RedirectStandardInput = $source; RedirectStandardOutput = $out; RedirectStandardError = $err }
    if ($Line -ne '') {
        $options += @{ ArgumentList = $Line }
    }
    $process = Start-Process @options
    $handle = $process.Handle
    if (-not $process.WaitForExit($Milliseconds)) {
        & taskkill /PID $process.Id /T /F | Out-Null
        throw 'loraloom: no answer in time'
    }
    Write-Output $process.ExitCode
    Write-Output ([Convert]::ToBase64String([System.IO.File]::ReadAllBytes($out)))
    Write-Output ([Convert]::ToBase64String([System.IO.File]::ReadAllBytes($err)))
}
finally {
    if (Test-Path -Path $folder) {
        Remove-Item -Recurse -Force -Path $folder
    }
}
"""
"""Runs one program with its stdin from a file. Values arrive as parameters; nothing is formatted into the text."""


class PsrpConnection:
    """One runspace pool; commands follow each other."""

    def __init__(self, client: Any, pool: Any) -> None:
        self._client, self._pool = client, pool
        self._one = asyncio.Lock()

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        """As `Connection.run`."""
        async with self._one:
            try:
                async with asyncio.timeout(timeout_s + 60):
                    answer = await asyncio.to_thread(self._run, argv, data, timeout_s)
            except TimeoutError:
                raise LinkLostError(f"no answer in {timeout_s:g} s") from None
        if output is None:
            return answer
        output.write_bytes(answer.output)
        return Answer(status=answer.status, output=b"", errors=answer.errors)

    def _run(self, argv: Sequence[str], data: bytes | Path, timeout_s: float) -> Answer:
        from pypsrp.exceptions import AuthenticationError  # pyright: ignore[reportMissingImports]
        from pypsrp.powershell import PowerShell  # pyright: ignore[reportMissingImports]

        remote = ""
        try:
            inline = data.read_bytes() if isinstance(data, Path) and data.stat().st_size <= INLINE_BYTES else data
            if isinstance(inline, Path) or len(inline) > INLINE_BYTES:
                remote, inline = self._copy(inline), b""
            shell = PowerShell(self._pool)
            shell.add_script(SCRIPT)
            for name, value in parameters(argv, inline, remote, timeout_s).items():
                shell.add_parameter(name, value)
            rows = shell.invoke()
            if shell.had_errors or len(rows) < 3:
                text = " ".join(str(error) for error in shell.streams.error)[:300]
                if LATE in text:
                    raise LinkLostError(f"no answer in {timeout_s:g} s")
                raise UserError(f"{argv[0]} does not run there", got=text)
        except (UserError, LinkLostError):
            raise
        except AuthenticationError:  # the account was locked meanwhile, or its password changed
            raise _refused(self._client.wsman.transport.server, self._client.wsman.transport.username) from None
        except Exception as error:  # requests' and pypsrp's errors of a broken link have no common base
            raise LinkLostError(f"{type(error).__name__}: {str(error)[:200]}") from None
        finally:
            if remote:
                with suppress(Exception):
                    self._remove(remote)
        return Answer(status=int(rows[0]), output=base64.b64decode(str(rows[1])), errors=base64.b64decode(str(rows[2])))

    def _copy(self, data: bytes | Path) -> str:
        """The data as a file on the host; returns its path there."""
        if isinstance(data, Path):
            return str(self._client.copy(str(data), f"loraloom-{os.urandom(6).hex()}.in"))
        descriptor, name = tempfile.mkstemp(prefix="loraloom-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            return self._copy(Path(name))
        finally:
            Path(name).unlink()

    def _remove(self, remote: str) -> None:
        from pypsrp.powershell import PowerShell  # pyright: ignore[reportMissingImports]

        shell = PowerShell(self._pool)
        shell.add_cmdlet("Remove-Item").add_parameter("LiteralPath", remote)
        shell.invoke()

    async def close(self) -> None:
        """As `Connection.close`."""
        with suppress(Exception):
            async with asyncio.timeout(5):
                await asyncio.to_thread(self._pool.close)


def parameters(argv: Sequence[str], data: bytes, remote: str, timeout_s: float) -> dict[str, Any]:
    """What `SCRIPT` is called with."""
    return {
        "Program": argv[0],
        "Line": subprocess.list2cmdline(argv[1:]),
        "Data": base64.b64encode(data).decode("ascii"),
        "File": remote,
        "Milliseconds": max(1, int(1000 * timeout_s)),
    }


def _refused(address: str, user: str | None) -> UserError:
    return UserError(
        f"{address} refuses the login",
        got=user or "the running account",
        fix="set User in workers.json, and LORALOOM_PSRP_PASSWORD for an account of that machine",
    )


def _reason(error: Exception) -> str:
    """What TLS says, without the layers of libraries around it."""
    found = re.search(r"certificate verify failed[^(]*", str(error))
    return found[0].strip() if found else type(error).__name__


class PsrpTransport:
    """PowerShell Remoting over HTTPS with a pinned certificate."""

    name = "psrp"
    secure = True

    async def connect(self, endpoint: Endpoint) -> PsrpConnection:
        """As `Transport.connect`."""
        try:
            import pypsrp.client  # pyright: ignore[reportMissingImports]
            from pypsrp.exceptions import AuthenticationError  # pyright: ignore[reportMissingImports]
            from pypsrp.powershell import RunspacePool  # pyright: ignore[reportMissingImports]
            from requests.exceptions import SSLError  # pyright: ignore[reportMissingModuleSource, reportMissingImports]
        except ImportError:
            raise UserError("psrp needs pypsrp", fix="install loraloom[cluster]") from None
        if not endpoint.known_hosts or not Path(endpoint.known_hosts).expanduser().is_file():
            raise UserError(
                f"the certificate of {endpoint.address} is not known",
                got=endpoint.known_hosts,
                fix="copy the .pem that worker_setup.ps1 wrote, and name it as KnownHosts in workers.json",
            )
        options = {
            "username": endpoint.user,
            "password": os.environ.get("LORALOOM_PSRP_PASSWORD"),
            "ssl": True,
            "port": endpoint.port or PORT,
            "auth": "negotiate",
            "cert_validation": str(Path(endpoint.known_hosts).expanduser()),
            "connection_timeout": 4,
        }

        def open_pool() -> PsrpConnection:
            client = pypsrp.client.Client(endpoint.address, **options)
            pool = RunspacePool(client.wsman)
            pool.open()
            return PsrpConnection(client, pool)

        try:
            return await asyncio.to_thread(open_pool)
        except AuthenticationError:
            raise _refused(endpoint.address, endpoint.user) from None
        except SSLError as error:
            raise UserError(
                f"the certificate of {endpoint.address} is not the one in {endpoint.known_hosts}",
                got=_reason(error),
                fix="copy the .pem that worker_setup.ps1 wrote on that machine; run it there again if its address changed",
            ) from None
        except Exception as error:  # as above
            raise LinkLostError(f"{type(error).__name__}: {str(error)[:200]}") from None


TRANSPORT = PsrpTransport()
