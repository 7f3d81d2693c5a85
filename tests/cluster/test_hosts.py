"""Workers from files and addresses: every mistake is named before anything is contacted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.cluster.hosts import hosts_of_addresses, read_hosts
from loraloom.utils.errors import UserError


def write(folder: Path, value: Any, encoding: str = "utf-8") -> Path:
    path = folder / "workers.json"
    path.write_text(json.dumps(value), encoding=encoding)
    return path


def test_the_keys_of_the_original_scripts_and_ours_are_read_in_any_case(tmp_path: Path) -> None:
    rows = [
        {"IPAddress": "192.168.0.11", "ComputerName": "LAB-2", "GPUCount": 2},
        {"ipaddress": "192.168.0.12", "user": "trainer", "Transport": "psrp", "System": "windows", "Port": 5986},
    ]
    first, second = read_hosts(write(tmp_path, rows))
    assert (first.address, first.name, first.gpus, first.transport) == ("192.168.0.11", "LAB-2", 2, "ssh")
    assert (second.name, second.user, second.port, second.endpoint.windows) == ("192.168.0.12", "trainer", 5986, True)


@pytest.mark.parametrize("wrap", [lambda row: row, lambda row: [row], lambda row: {"workers": [row]}])
def test_one_worker_may_stand_alone_as_powershell_writes_it_with_a_byte_order_mark(tmp_path: Path, wrap: Any) -> None:
    assert read_hosts(write(tmp_path, wrap({"IPAddress": "10.0.0.2"}), "utf-8-sig"))[0].address == "10.0.0.2"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "lists no workers"),
        (3, "lists no workers"),
        ([{"ComputerName": "a"}], "no 'address'"),
        ([{"IPAddress": "10.0.0.2", "Password": "x"}], "holds a secret"),
        ([{"IPAddress": "10.0.0.2", "UserPasswd": "x"}], "holds a secret"),
        ([{"IPAddress": "10.0.0.2", "GPUCuont": 1}], "GPUCount"),
        ([{"IPAddress": "10.0.0.2", "GPUCount": "1"}], "gpus"),
        ([{"IPAddress": "10.0.0.2", "GPUCount": True}], "gpus"),
        ([{"IPAddress": "10.0.0.2", "GPUCount": -1}], "gpus"),
        ([{"IPAddress": "10.0.0.2; rm -rf /"}], "an IP address or a host name"),
        ([{"IPAddress": "-oProxyCommand=x"}], "an IP address or a host name"),
        ([{"IPAddress": "10.0.0.2", "Root": "D:\\a & b"}], "a path without"),
        ([{"IPAddress": "10.0.0.2", "System": "amiga"}], "linux, windows or macos"),
        ([{"IPAddress": "10.0.0.2"}, {"IPAddress": "10.0.0.2"}], "two workers have one name"),
        ([{"IPAddress": "10.0.0.2"}, {"IPAddress": "10.0.0.2", "ComputerName": "b"}], "address and folder"),
        (
            [{"IPAddress": "a", "ComputerName": "X"}, {"IPAddress": "b", "ComputerName": "x"}],
            "two workers have one name",
        ),
        ([{"IPAddress": "a", "address": "b"}], "a key twice"),
    ],
)
def test_a_wrong_file_of_workers_is_refused_with_the_reason(tmp_path: Path, rows: Any, text: str) -> None:
    with pytest.raises(UserError, match=r".*") as refused:
        read_hosts(write(tmp_path, rows))
    assert text in str(refused.value)


def test_addresses_of_the_command_line_may_name_user_and_port() -> None:
    first, second, third = hosts_of_addresses(["192.168.0.11,me@lab-2:2222", "[fe80::1]"])
    assert (first.address, first.user, first.port) == ("192.168.0.11", None, None)
    assert (second.address, second.user, second.port) == ("lab-2", "me", 2222)
    assert third.address == "fe80::1"


@given(st.text(max_size=40))
def test_whatever_is_typed_as_an_address_gives_hosts_or_a_user_error(text: str) -> None:
    try:
        hosts = hosts_of_addresses([text])
    except UserError:
        return
    assert all(host.name and not host.address.startswith("-") for host in hosts)
