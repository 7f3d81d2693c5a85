"""Links from the master to hosts: opened when a question is asked, opened again after they broke.

In: a host. Out: answers of its commands and of its node agent, parsed and bounded. Many hosts are asked at once.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from loraloom import plugins
from loraloom.cluster.hosts import Host
from loraloom.protocols.transport import Answer, Connection, LinkLostError
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import parse_json

Connect = Callable[[Host], Awaitable[Connection]]
T = TypeVar("T")

MAX_ANSWER_BYTES = 256 << 20


async def connect_by_transport(host: Host) -> Connection:
    """Connect through the extension that the host names."""
    return await plugins.load("transports", host.transport).connect(host.endpoint)


class Link:
    """A host and its connection, if one is open."""

    def __init__(self, host: Host, connect: Connect = connect_by_transport) -> None:
        self.host = host
        self.connect = connect
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        """As `Connection.run`; a broken link is closed, and the next call opens another.

        Raises:
            LinkLostError: The host does not answer.
            UserError: It refuses the login, or the command cannot be started.
        """
        async with self._opening:
            if self._connection is None:
                self._connection = await self.connect(self.host)
            connection = self._connection
        try:
            return await connection.run(argv, data=data, output=output, timeout_s=timeout_s)
        except LinkLostError:
            if self._connection is connection:
                self._connection = None
            await connection.close()
            raise

    async def checked(self, argv: Sequence[str], what: str, **options: Any) -> Answer:
        """`run` of a command that must succeed.

        Raises:
            UserError: It ended with another status than 0; names the host and the command's last line.
        """
        answer = await self.run(argv, **options)
        if answer.status != 0:
            raise UserError(f"{self.host.name}: {what} failed", got=answer.message or f"status {answer.status}")
        return answer

    async def ask(
        self, agent: Sequence[str], question: Mapping[str, Any] | None = None, *, timeout_s: float = 60.0
    ) -> Any:
        """A question to the node agent; the answer as plain values.

        Raises:
            LinkLostError, UserError: As `checked`, or the answer is no JSON.
        """
        text = json.dumps(dict(question or {})).encode()
        answer = await self.checked(agent, f"the node agent ({agent[-1]})", data=text, timeout_s=timeout_s)
        if len(answer.output) > MAX_ANSWER_BYTES:
            raise UserError(f"{self.host.name}: the node agent's answer is too large")
        return parse_json(answer.output.decode("utf-8", "replace"), f"the answer of {self.host.name}")

    async def close(self) -> None:
        """Close the connection, if one is open."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


async def each(links: Sequence[Link], question: Callable[[Link], Awaitable[T]]) -> list[T | LinkLostError | UserError]:
    """Ask all hosts at once. A host that does not answer, or refuses, gives its error in place of an answer."""

    async def one(link: Link) -> T | LinkLostError | UserError:
        try:
            return await question(link)
        except (LinkLostError, UserError) as error:
            return error

    return list(await asyncio.gather(*(one(link) for link in links)))
