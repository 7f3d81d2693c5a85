"""Transports against something that answers: this machine, and an SSH server in this process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loraloom import plugins
from loraloom.extensions.transports.local import LocalConnection
from loraloom.extensions.transports.ssh import SshConnection, SshTransport, quote
from loraloom.protocols.transport import Connection, Endpoint, LinkLostError
from loraloom.utils.errors import UserError

from .conftest import run_async

COUNT = "import sys; data = sys.stdin.buffer.read(); print(len(data), sum(data) % 251)"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the server runs commands by a POSIX shell")


@asynccontextmanager
async def ssh_server(folder: Path) -> AsyncIterator[tuple[Endpoint, Any]]:
    """An SSH server that runs what it is asked to, as this account."""
    asyncssh = pytest.importorskip("asyncssh")
    key, host_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "id"))
    (folder / "id").chmod(0o600)
    key.write_public_key(str(folder / "authorized"))

    async def handle(process: Any) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        # Not process.redirect: it may still write when the exit status has closed the channel.
        output, errors = await child.communicate(await process.stdin.read())
        process.stdout.write(output)
        process.stderr.write(errors)
        process.exit(child.returncode)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized"),
        process_factory=handle,
        encoding=None,
    )
    port = server.get_port()
    public = host_key.export_public_key().decode().strip()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
    endpoint = Endpoint(
        address="127.0.0.1", port=port, user="u", key_file=str(folder / "id"), known_hosts=str(folder / "known")
    )
    try:
        yield endpoint, server
    finally:
        server.close()


async def check(connection: Connection, folder: Path) -> None:
    """What every transport promises."""
    python = [sys.executable, "-c"]
    answer = await connection.run([*python, COUNT], data=bytes(range(256)) * 4)
    assert (answer.status, answer.output.split()) == (0, [b"1024", str(sum(range(256)) * 4 % 251).encode()])
    assert (await connection.run([*python, COUNT], timeout_s=30)).output.split() == [b"0", b"0"]
    big = folder / "big"
    big.write_bytes(b"\x00\xff\n\r" * 300_000)
    assert (await connection.run([*python, COUNT], data=big)).output.split()[0] == b"1200000"
    for unread in (b"{}", bytes(3_000_000), big):
        assert (await connection.run([*python, "print('done')"], data=unread)).output.split() == [b"done"]
    out = folder / "out"
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    assert (await connection.run([*python, script], output=out)).output == b""
    assert out.read_bytes() == bytes(range(256)) * 1000
    failed = await connection.run([*python, "import sys; print('why', file=sys.stderr); sys.exit(3)"])
    assert (failed.status, failed.message) == (3, "why")
    odd = "a b'c\"d $HOME `x` ;|&* \\"
    echoed = await connection.run([*python, "import sys; print(sys.argv[1])", odd])
    assert echoed.output.decode().rstrip("\r\n") == odd
    both = await asyncio.gather(*(connection.run([*python, f"print({n})"]) for n in range(3)))
    assert [int(answer.output) for answer in both] == [0, 1, 2]
    with pytest.raises(UserError):
        await connection.run(["no-such-program-anywhere"])
    with pytest.raises(LinkLostError):
        await connection.run([*python, "import time; time.sleep(60)"], timeout_s=0.5)


def test_this_machine_keeps_the_promises_of_a_transport(tmp_path: Path) -> None:
    run_async(check(LocalConnection(), tmp_path))


@posix
def test_ssh_keeps_the_promises_of_a_transport(tmp_path: Path) -> None:
    async def story() -> None:
        async with ssh_server(tmp_path) as (endpoint, _):
            connection = await SshTransport().connect(endpoint)
            await check(connection, tmp_path)
            await connection.close()

    run_async(story())


@posix
def test_ssh_refuses_another_host_key_a_wrong_key_and_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with ssh_server(tmp_path) as (endpoint, server):
            (tmp_path / "empty").write_text("")
            with pytest.raises(UserError, match=r"host key of 127\.0\.0\.1 is not known"):
                await SshTransport().connect(replace(endpoint, known_hosts=str(tmp_path / "empty")))
            asyncssh = pytest.importorskip("asyncssh")
            asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "wrong"))
            with pytest.raises(UserError, match="refuses the login"):
                await SshTransport().connect(replace(endpoint, key_file=str(tmp_path / "wrong")))
            with pytest.raises(UserError, match="key file is missing"):
                await SshTransport().connect(replace(endpoint, key_file=str(tmp_path / "none")))
            server.close()
            await server.wait_closed()
            with pytest.raises(LinkLostError):
                await SshTransport().connect(endpoint)

    run_async(story())


def test_an_argument_that_windows_would_read_as_its_own_is_refused_not_changed() -> None:
    assert quote(["a b", "c"], windows=True) == '"a b" c'
    assert quote(["a b", "$x"], windows=False) == "'a b' '$x'"
    for bad in ("100%", "a&b", 'say "x"', "a|b", "x\ny", "%PATH%", "$env:x", "`"):
        with pytest.raises(UserError, match="Windows"):
            quote([bad], windows=True)


def test_every_transport_says_whether_it_is_secure() -> None:
    assert {name: plugins.load("transports", name).secure for name in plugins.names("transports")} == {
        "local": True,
        "psrp": True,
        "ssh": True,
    }


def test_psrp_without_the_certificate_of_the_host_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pypsrp")
    for known in (None, str(tmp_path / "none.pem")):
        endpoint = Endpoint(address="127.0.0.1", known_hosts=known, windows=True)
        with pytest.raises(UserError, match="certificate"):
            run_async(plugins.load("transports", "psrp").connect(endpoint))


def test_a_question_that_is_cancelled_in_the_moment_of_its_answer_ends() -> None:
    """A supervisor that sees a fault cancels its other questions and waits for their end."""
    pytest.importorskip("asyncssh")

    class Channel:
        def __init__(self) -> None:
            self.answer = asyncio.get_running_loop().create_future()

        async def create_process(self, line: str, **options: Any) -> Any:
            return self

        async def wait(self) -> Any:
            return await self.answer

    async def ask() -> None:
        channel = Channel()
        task = asyncio.create_task(SshConnection(channel, Endpoint(address="host")).run(["true"]))
        for _ in range(3):
            await asyncio.sleep(0)
        channel.answer.set_result(SimpleNamespace(exit_status=0, returncode=0, stdout=b"", stderr=b""))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(ask())
