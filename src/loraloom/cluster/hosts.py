"""The machines of a cluster: `workers.json`, or addresses from the command line, to checked records.

In: a file of objects with `IPAddress`, `ComputerName`, `GPUCount`, and our own keys; or addresses. Out: `Host`s, each with
a name of its own. No password is read from anywhere: keys and agents log in.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from loraloom.protocols.transport import Endpoint
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import MAX_CONFIG_BYTES, parse_json, parse_record, read_text, shown

MAX_HOSTS = 1024
DEFAULT_ROOT = "loraloom-cluster"

KEYS = {
    "IPAddress": "address",
    "ComputerName": "name",
    "GPUCount": "gpus",
    "Processes": "processes",
    "Transport": "transport",
    "System": "system",
    "User": "user",
    "Port": "port",
    "KeyFile": "key_file",
    "KnownHosts": "known_hosts",
    "Root": "root",
    "Python": "python",
    "Dataset": "dataset",
}
"""Key in `workers.json` -> field of `Host`. Upper and lower case count alike."""

_ADDRESS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SECRET = re.compile(r"pass(?:word|wd|phrase)?|secret|token|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine.

    Attributes:
        address: IP address or name that the master reaches it by.
        name: Shown in logs and tables; unique.
        gpus: GPUs that it is expected to have; None: as many as it is found to have.
        processes: Ranks to start there; None: one for each GPU, or one on a machine without.
        transport: Name of the transport extension.
        system: What runs on it: `linux`, `windows` or `macos`.
        user: Account to log in with; None: the transport's default.
        port: Port of the transport; None: the transport's default.
        key_file: Private key of the master.
        known_hosts: The host's known public key or certificate.
        root: Folder for releases, data and runs; relative: to the account's home.
        python: Python with everything installed; None: uv installs one at the deployment.
        dataset: Folder of the dataset on the machine; None: the master's is shipped.
    """

    address: Annotated[str, Field(min_length=1, max_length=254)]
    name: Annotated[str, Field(max_length=63)] = ""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    processes: Annotated[int, Field(ge=1, le=64)] | None = None
    transport: str = "ssh"
    system: str = "linux"
    user: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    key_file: str | None = None
    known_hosts: str | None = None
    root: str = DEFAULT_ROOT
    python: str | None = None
    dataset: str | None = None

    @property
    def endpoint(self) -> Endpoint:
        """What a transport reads of it."""
        return Endpoint(
            address=self.address,
            port=self.port,
            user=self.user,
            key_file=self.key_file,
            known_hosts=self.known_hosts,
            windows=self.system == "windows",
        )


def read_hosts(path: Path) -> list[Host]:
    """The hosts of a `workers.json`: a list of objects, one object, or `{"workers": [...]}`.

    Raises:
        UserError: Not such a file; a password in it; a key that is not known; two hosts with one name or address.
    """
    text = read_text(path, str(path), max_bytes=MAX_CONFIG_BYTES)
    value = parse_json(text, str(path), unique_keys=True)
    if isinstance(value, dict) and set(value) == {"workers"}:
        value = value["workers"]
    rows = [value] if isinstance(value, dict) else value  # ConvertTo-Json writes one worker without a list
    if not isinstance(rows, list) or not rows or len(rows) > MAX_HOSTS:
        expected = f'a list of 1 to {MAX_HOSTS:,} objects such as {{"IPAddress": "192.168.0.11", "GPUCount": 1}}'
        raise UserError(f"{path} lists no workers", got=shown(value), expected=expected)
    return checked([_host(row, f"{path}, worker {number}") for number, row in enumerate(rows, 1)])


def hosts_of_addresses(addresses: Sequence[str]) -> list[Host]:
    """Hosts of `address`, `user@address` or `user@address:port`, as they are typed.

    Raises:
        UserError: Not an address, or one that is given twice.
    """
    hosts: list[Host] = []
    for text in [part.strip() for address in addresses for part in address.split(",") if part.strip()]:
        match = re.fullmatch(r"(?:([A-Za-z0-9._-]+)@)?([^@:]+|\[[0-9A-Fa-f:]+\]|[0-9A-Fa-f:]{3,})(?::(\d{1,5}))?", text)
        if not match or not _ADDRESS.fullmatch(match[2].strip("[]")):
            raise UserError(
                "not an address of a worker", got=text, expected="192.168.0.11, user@host or user@host:2222"
            )
        port = int(match[3]) if match[3] else None
        if port is not None and not 1 <= port <= 65535:
            raise UserError("not a port of a worker", got=text, expected="a port from 1 to 65535")
        hosts.append(Host(address=match[2].strip("[]"), user=match[1], port=port))
    if not hosts:
        raise UserError("no workers", fix="name them with --workers 192.168.0.11,192.168.0.12 or --workers-file")
    return checked(hosts)


def checked(hosts: Sequence[Host]) -> list[Host]:
    """The hosts with a name each.

    Raises:
        UserError: Two have one name, or one address and one folder there.
    """
    named = [host if host.name else replace(host, name=_name(host.address)) for host in hosts]
    for what, key in (
        ("name", lambda host: host.name.lower()),
        ("address and folder", lambda host: f"{host.address.lower()} {host.root}"),
    ):
        seen: set[str] = set()
        for host in named:
            if key(host) in seen:
                raise UserError(f"two workers have one {what}", got=key(host), fix="name each machine once")
            seen.add(key(host))
    return named


def _host(row: Any, where: str) -> Host:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object", got=shown(row))
    fields = {key.lower(): name for key, name in KEYS.items()} | {name: name for name in KEYS.values()}
    values: dict[str, Any] = {}
    for key, value in row.items():
        if _SECRET.search(key):
            raise UserError(
                f"{where} holds a secret",
                got=shown(key),
                fix="remove it: log in with a key file or the SSH agent; a password in a file is read by others",
            )
        name = fields.get(key.lower())
        if name is None:
            raise UserError(f"{where} has an unknown key", got=shown(key), fix=did_you_mean(key, KEYS))
        if name in values:
            raise UserError(f"{where} has a key twice", got=shown(key))
        if value is not None:
            values[name] = value
    host = parse_record(Host, json.dumps(values), where)
    if not _ADDRESS.fullmatch(host.address):
        raise UserError(f"{where}: IPAddress", got=host.address, expected="an IP address or a host name")
    if host.name and not _NAME.fullmatch(host.name):
        raise UserError(f"{where}: ComputerName", got=host.name, expected="letters, digits, dots, _ and -")
    if host.system not in {"linux", "windows", "macos"}:
        raise UserError(f"{where}: System", got=host.system, expected="linux, windows or macos")
    if bad := next((text for text in (host.root, host.python, host.dataset) if text and _unsafe(text)), None):
        raise UserError(f"{where}: a path", got=bad, expected="a path without quotes, line ends, %, !, &, |, < and >")
    return host


def _unsafe(path: str) -> bool:
    """Whether a path has characters that a shell of some system reads as its own."""
    return bool(re.search(r"[\x00-\x1f\"'%!&|<>^`$*?;]", path))


def _name(address: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", address)[:63]
