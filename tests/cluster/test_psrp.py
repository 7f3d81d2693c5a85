"""PowerShell Remoting against a stand-in of a Windows host: a real TLS and NTLM login, and the envelopes of real sessions."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loraloom.extensions.transports.psrp import LATE, SCRIPT, PsrpTransport
from loraloom.protocols.transport import Endpoint, LinkLostError
from loraloom.utils.errors import UserError

pytest.importorskip("pypsrp")

from tests.support.wsman_server import PASSWORD, USER, Host, make_certificate, windows_arguments, wsman_server

from .conftest import run_async
from .test_transports import check

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a login of Windows itself needs an account of it")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("LORALOOM_PSRP_PASSWORD", PASSWORD)
    with wsman_server(tmp_path, monkeypatch.setenv) as made:
        yield made


@pytest.fixture
def endpoint(host: Host) -> Endpoint:
    return Endpoint(
        address="127.0.0.1", port=host.port, user=f"HOST\\{USER}", known_hosts=str(host.certificate), windows=True
    )


def test_psrp_keeps_the_promises_of_a_transport(host: Host, endpoint: Endpoint, tmp_path: Path) -> None:
    async def story() -> None:
        connection = await PsrpTransport().connect(endpoint)
        await check(connection, tmp_path)
        await connection.close()

    run_async(story())
    assert host.seen[0] == "Create" and host.seen[-1] == "Delete"
    assert {"Receive", "Command", "Send"} <= set(host.seen)
    assert not list(tmp_path.glob("loraloom-*.in")), "a copied input is removed again"
    assert not any(PASSWORD in text for text in host.envelopes)


def test_output_that_arrives_in_several_pieces_is_put_together(host: Host, endpoint: Endpoint) -> None:
    host.piece_bytes = 700  # a fragment ends within a base64 group and within a character
    script = "import sys; sys.stdout.buffer.write('한글 '.encode() * 500); print('why', file=sys.stderr); sys.exit(3)"

    async def story() -> None:
        connection = await PsrpTransport().connect(endpoint)
        answer = await connection.run([sys.executable, "-c", script])
        assert answer.output.decode() == "한글 " * 500
        assert (answer.status, answer.message) == (3, "why")
        await connection.close()

    run_async(story())
    assert host.seen.count("Receive") > 10


def test_the_services_own_timeout_of_a_receive_is_not_the_end_of_a_command(host: Host, endpoint: Endpoint) -> None:
    async def story() -> None:
        connection = await PsrpTransport().connect(endpoint)
        host.times_out = 2
        assert (await connection.run([sys.executable, "-c", "print(1)"])).output.strip() == b"1"
        await connection.close()

    run_async(story())


def test_a_wrong_password_is_a_refused_login_and_is_not_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALOOM_PSRP_PASSWORD", "wrong secret")
    with pytest.raises(UserError, match=r"127\.0\.0\.1 refuses the login: got 'HOST\\\\?trainer'") as refused:
        run_async(PsrpTransport().connect(endpoint))
    assert "wrong secret" not in str(refused.value)


def test_another_certificate_than_the_pinned_one_is_refused_before_the_login(
    host: Host, endpoint: Endpoint, tmp_path: Path
) -> None:
    """A machine that answers at the worker's address must not be given the account's answer to its challenge."""
    other, _ = make_certificate(tmp_path, "other")
    with pytest.raises(UserError, match=r"the certificate of 127\.0\.0\.1 is not the one in .*other\.pem") as refused:
        run_async(PsrpTransport().connect(replace(endpoint, known_hosts=str(other))))
    assert "certificate verify failed" in str(refused.value)
    assert not host.seen


def test_a_login_that_is_refused_later_is_no_lost_link(host: Host, endpoint: Endpoint, tmp_path: Path) -> None:
    """A link that is lost is opened again and again: that would lock the account."""

    async def story() -> None:
        connection = await PsrpTransport().connect(endpoint)
        (tmp_path / "accounts").write_text("HOST:nobody:x\n")
        host.drop_logins()
        with pytest.raises(UserError, match="refuses the login"):
            await connection.run([sys.executable, "-c", "print(1)"])
        await connection.close()

    run_async(story())


def test_nobody_at_the_address_is_a_lost_link(host: Host, endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(LinkLostError):
        run_async(PsrpTransport().connect(replace(endpoint, port=1)))


def test_the_script_throws_what_the_transport_takes_for_a_late_answer() -> None:
    assert f"throw '{LATE}'" in SCRIPT


@pytest.mark.parametrize(
    "argument", ["", "a b", 'say "x"', "c:\\a b\\", 'back\\"slash', "\\\\host\\share", "tab\there"]
)
def test_the_stand_in_splits_a_command_line_as_windows_does(argument: str) -> None:
    assert windows_arguments(subprocess.list2cmdline(["one", argument, "two"])) == ["one", argument, "two"]
