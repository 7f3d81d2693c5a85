"""Two nodes on this machine: own folders, own releases, a link that can be cut."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from loraloom.cluster.deploying import Release, deploy, make_archive, make_release
from loraloom.cluster.hosts import Host
from loraloom.cluster.links import Link
from loraloom.cluster.plan import Member, RunPlan
from loraloom.cluster.supervisor import Supervisor
from loraloom.config.cluster import ClusterConfig
from loraloom.extensions.transports.local import LocalConnection
from loraloom.protocols.transport import Answer, Connection, LinkLostError

T = TypeVar("T")
STAND_IN = Path(__file__).with_name("stand_in.py")


@dataclass
class Fake:
    """A transport of this machine with faults.

    Attributes:
        cut: Hosts that do not answer.
        unstarted: Hosts whose next attempt starts and is said not to have.
        slow_s: Seconds before a file comes from a host.
        lines: Commands that were sent, with their hosts.
    """

    cut: set[str] = field(default_factory=set[str])
    unstarted: set[str] = field(default_factory=set[str])
    slow_s: float = 0.0
    lines: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])

    async def connect(self, host: Host) -> Connection:
        if host.name in self.cut:
            raise LinkLostError("no answer")
        return FakeConnection(self, host)


@dataclass
class FakeConnection:
    fake: Fake
    host: Host

    async def run(
        self, argv: Sequence[str], *, data: bytes | Path = b"", output: Path | None = None, timeout_s: float = 60.0
    ) -> Answer:
        self.fake.lines.append((self.host.name, list(argv)))
        if self.host.name in self.fake.cut:
            raise LinkLostError("the connection broke")
        if output is not None:
            await asyncio.sleep(self.fake.slow_s)
        answer = await LocalConnection().run(argv, data=data, output=output, timeout_s=timeout_s)
        if self.host.name in self.fake.cut:
            raise LinkLostError("the connection broke")
        if argv[-1] == "start" and self.host.name in self.fake.unstarted:
            self.fake.unstarted.remove(self.host.name)
            return replace(answer, output=json.dumps({"started": False, "reason": "no memory"}).encode())
        return answer

    async def close(self) -> None:
        return


@dataclass
class Lab:
    """Deployed nodes.

    Attributes:
        release: What they have.
        hosts: In order.
        said: Lines for the user.
        events: What the supervisors recorded.
    """

    release: Release
    hosts: list[Host]
    fake: Fake
    said: list[str] = field(default_factory=list[str])
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])

    def member(self, host: Host, run: str, processes: int = 1) -> Member:
        return Member(
            host=host,
            processes=processes,
            address="127.0.0.1",
            python=sys.executable,
            release=f"{host.root}/{self.release.name}",
            dataset="data/none",
            run_folder=f"runs/{run}",
        )

    def supervisor(
        self, run: str, home: Path, *arguments: str, processes: tuple[int, ...] = (1, 1), **config: Any
    ) -> Supervisor:
        plan = RunPlan(
            name=run,
            settings="",
            arguments=arguments,
            port=29500,
            lease_s=config.get("lease_s", 20.0),
            grace_s=10.0,
            env={},
            program=(str(STAND_IN),),
        )
        members = [self.member(host, run, n) for host, n in zip(self.hosts, processes, strict=False)]
        settings = ClusterConfig(**{"poll_s": 0.1, "suspect_s": 15.0, "rejoin_s": 1.0, "lease_s": 20.0, **config})
        record = lambda word, values: self.events.append((word, values))  # noqa: E731
        return Supervisor(
            plan,
            members,
            settings,
            home,
            self.said.append,
            self.fake.connect,
            record,
        )

    def outcomes(self) -> list[str]:
        return [values["kind"] for word, values in self.events if word == "outcome"]

    def ask(self, host: Host, verb: str, question: dict[str, Any]) -> Any:
        return run_async(Link(host, self.fake.connect).ask(self.member(host, "x").agent(verb), question))


def run_async(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, list[Host]]:
    """Two hosts of this machine with the project in a release each."""
    release = make_release()
    hosts = [
        Host(
            address="127.0.0.1",
            name=name,
            transport="local",
            system="windows" if sys.platform == "win32" else "linux",
            root=tmp_path_factory.mktemp(name).as_posix(),
            python=sys.executable,
        )
        for name in ("ada", "bob")
    ]
    archive = make_archive(release)

    async def both() -> None:
        for host in hosts:
            await deploy(Link(host), release, archive, lambda text: None)

    run_async(both())
    archive.unlink()
    return release, hosts


@pytest.fixture
def lab(deployed: tuple[Release, list[Host]]) -> Lab:
    """The deployed hosts with links that can be cut."""
    release, hosts = deployed
    return Lab(release, [replace(host) for host in hosts], Fake())


@pytest.fixture
def soon() -> Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]:
    """Waits inside an event loop until something is so; a minute at most."""

    async def wait(so: Callable[[], bool]) -> None:
        for _ in range(1200):
            if so():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("it did not happen within a minute")

    return wait
