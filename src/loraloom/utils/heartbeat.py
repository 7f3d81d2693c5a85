"""What a rank is doing, in a small file that its node agent reads: step, exchanges with the other ranks, hashes of its weights.

In: the environment variable LORALOOM_HEARTBEAT, a file's path. Out: one JSON record there, rewritten in place. All ranks take
part in the same exchanges in the same order, so the rank that hangs is the one that has entered fewest. The supervisor compares
hashes over nodes too: ranks that train alone have no exchange in which they could notice it. Standard library only.
"""

import json
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

HEARTBEAT = "LORALOOM_HEARTBEAT"
"""Environment variable: the file of this rank; without it nothing is written."""

NODE = "LORALOOM_NODE"
"""Environment variable: the name of this machine in its cluster."""

SIZE = 2048
HASHES = 24
"""Newest hashes that are kept in the file; a node agent looks every second."""


class Heartbeat:
    """The record of one rank.

    Attributes:
        active: Whether anybody reads it.
    """

    def __init__(self, path: Path | None) -> None:
        self.active = path is not None
        self._file = None
        self._step, self._entered, self._world, self._hashes = 0, 0, 0, dict[int, str]()
        if path is not None:
            with suppress(OSError):
                self._file = path.open("wb", buffering=0)

    def join(self, world_size: int) -> None:
        """The rank has joined a process group of this size."""
        self._world = world_size
        self._write()

    def step(self, number: int) -> None:
        """A step begins; `number` is that of finished steps."""
        self._step = number
        self._write()

    def enter(self) -> None:
        """The rank enters an exchange, in which it waits for the others."""
        self._entered += 1
        self._write()

    def weights(self, step: int, sha256: str) -> None:
        """The hash of the weights after `step` finished steps."""
        self._hashes = dict([*self._hashes.items(), (step, sha256[:16])][-HASHES:])
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        record = {
            "world_size": self._world,
            "step": self._step,
            "entered": self._entered,
            "weights": self._hashes,
        }
        with suppress(OSError):  # a full disk: the run itself reports that
            self._file.seek(0)
            self._file.write(json.dumps(record).encode().ljust(SIZE))


@cache
def heartbeat() -> Heartbeat:
    """The record of this process."""
    name = os.environ.get(HEARTBEAT)
    return Heartbeat(Path(name) if name else None)


def read_heartbeat(path: Path) -> dict[str, Any]:
    """A rank's record; empty where there is none, or where it is half written."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def node_name() -> str:
    """Name of this machine, for messages: that of the cluster, or else the host's own."""
    return os.environ.get(NODE) or socket.gethostname()
