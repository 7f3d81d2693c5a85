"""What a node is: system, versions, GPUs, memory, disk, network, clock; and whether two nodes can open connections.

In: nothing. Out: plain values as JSON. Standard library only; it runs on every node.
"""

import math
import os
import platform
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loraloom.utils.heartbeat import NODE

VERSIONS = ("torch", "accelerate", "diffusers", "transformers", "peft", "safetensors", "numpy")
"""Packages that must have one version on all nodes."""


def facts(root: Path) -> dict[str, Any]:
    """Everything that preflight compares."""
    total, _, free = shutil.disk_usage(root)
    return {
        "system": platform.system(),
        "release": platform.release(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
        "gpus": gpus(),
        "memory_bytes": _memory(),
        "disk_bytes": total,
        "free_bytes": free,
        "cores": os.cpu_count() or 1,
        "time": time.time(),
        "root": str(root),
        "port_range": _port_range(),
        "speed_mbit": {},
    }


def gpus() -> list[dict[str, Any]]:
    """GPUs as `nvidia-smi` lists them; empty where it does not run."""
    fields = ("name", "memory.total", "memory.used", "utilization.gpu", "driver_version")
    try:
        ran = subprocess.run(
            ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in ran.stdout.splitlines() if line.strip()]
    return [
        {
            "name": row[0],
            "memory_mib": _number(row[1]),
            "used_mib": _number(row[2]),
            "busy_percent": _number(row[3]),
            "driver": row[4],
        }
        for row in rows
        if len(row) == len(fields)
    ]


def own_address(master: str, port: int = 9) -> str:
    """The address of this machine that packets to `master` leave from. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, port))
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The network interface that has this address; None where the system does not say."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                packed = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                if socket.inet_ntoa(packed[20:24]) == address:
                    return name
    return None


def speed_mbit(interface: str | None) -> int | None:
    """Speed of an interface's link; None where it is virtual or the system does not say."""
    with suppress(OSError, ValueError, TypeError):
        speed = int(Path(f"/sys/class/net/{interface}/speed").read_text("ascii"))
        return speed if speed > 0 else None
    return None


def traffic_bytes(interface: str | None) -> int | None:
    """Bytes in and out of an interface since it is up."""
    with suppress(OSError, ValueError, TypeError):
        folder = Path(f"/sys/class/net/{interface}/statistics")
        return sum(int((folder / name).read_text("ascii")) for name in ("rx_bytes", "tx_bytes"))
    return None


def listen(ports: Sequence[int], seconds: float, callers: int = 0) -> dict[str, Any]:
    """Listen on ports and answer each connection with one byte: until every port had `callers` of them, or the time is over."""
    sockets: list[socket.socket] = []
    answered: Counter[socket.socket] = Counter()
    failed: list[int] = []
    for port in ports:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name != "nt":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
            server.listen(16)
        except OSError:
            failed.append(port)
            server.close()
            continue
        sockets.append(server)
    end = time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0 and any(answered[one] < (callers or math.inf) for one in sockets):
            for server in select.select(sockets, [], [], min(left, 0.5))[0]:
                with suppress(OSError):
                    taken, _ = server.accept()
                    with taken:
                        taken.sendall(b"+")
                        answered[server] += 1
    finally:
        for server in sockets:
            server.close()
    return {"busy": failed}


def connect(targets: Sequence[tuple[str, int]], seconds: float = 6.0) -> dict[str, str]:
    """Try to connect to each, all at once; `host:port` -> empty, or why it failed.

    A refusal is tried again until the time is over: the other side may just be starting to listen.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(targets)))) as pool:
        reasons = list(pool.map(lambda target: _connect(target[0], target[1], seconds), targets))
    return {f"{host}:{port}": reason for (host, port), reason in zip(targets, reasons, strict=True)}


def _connect(host: str, port: int, seconds: float) -> str:
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=seconds) as link:
                link.settimeout(seconds)
                return "" if link.recv(1) == b"+" else "another program answers there"
        except TimeoutError:
            return "no answer: a firewall drops it"
        except ConnectionRefusedError:
            if time.monotonic() > end:
                return "refused: nothing listens, or a firewall rejects it"
            time.sleep(0.3)
        except OSError as error:
            return error.strerror or str(error)


def variables(plan: Mapping[str, Any], rank: int, local_rank: int, interface: str | None) -> dict[str, str]:
    """The variables that one rank starts with."""
    found = {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(plan["world_size"]),
        "LOCAL_WORLD_SIZE": str(len(plan["ranks"])),
        "MASTER_ADDR": str(plan["master_address"]),
        "MASTER_PORT": str(plan["master_port"]),
        NODE: str(plan.get("node", "")),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if os.name == "nt":
        found["USE_LIBUV"] = "0"  # PyTorch's wheels for Windows are built without it
    if interface and int(plan["world_size"]) > 1:
        found |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return found | {str(name): str(value) for name, value in plan["env"].items()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _memory() -> int:
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _port_range() -> list[int]:
    """Ports that the system gives to connections that ask for any."""
    with suppress(OSError, ValueError):
        return [int(part) for part in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()]
    return []


def _number(text: str) -> int | None:
    with suppress(ValueError):
        return int(float(text))
    return None
