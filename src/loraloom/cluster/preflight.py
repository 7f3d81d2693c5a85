"""Checks before anything is started, each with a plain message: login, clock, versions, GPUs, disk, ports both ways, data.

In: links and what the nodes say of themselves. Out: `Finding`s. What is compared is pure; only `inspect_nodes`,
`check_ports` and `check_data` ask the nodes.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loraloom.cluster.deploying import data_differences
from loraloom.cluster.hosts import Host
from loraloom.cluster.links import Link, each
from loraloom.cluster.plan import PORTS
from loraloom.cluster.trees import Manifest
from loraloom.config.cluster import ClusterConfig
from loraloom.protocols.transport import LinkLostError
from loraloom.utils.errors import UserError

LISTEN_S = 12.0
SLOW_MBIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that preflight found.

    Attributes:
        node: Name of the host.
        what: What is wrong, with the values.
        fix: What to do.
        fatal: Whether a run must not start; else it is a warning.
    """

    node: str
    what: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.fatal else 'warning'}: [{self.node}] {self.what}\n  {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        host: The machine.
        facts: As `node_facts.facts`; empty where it did not answer.
        asked_at: The master's clock just before the question.
        answered_at: And just after the answer.
        error: Why it did not answer; empty when it did.
        fix: What to do about that.
    """

    host: Host
    facts: Mapping[str, Any]
    asked_at: float = 0.0
    answered_at: float = 0.0
    error: str = ""
    fix: str = ""


async def inspect_nodes(links: Sequence[Link], agents: Mapping[str, list[str]], master: str) -> list[NodeReport]:
    """The inventory of all nodes at once. `agents`: host name -> command of its agent without the verb."""

    async def one(link: Link) -> NodeReport:
        asked_at = time.time()
        answer = await link.ask([*agents[link.host.name], "facts"], {"master": master})
        return NodeReport(host=link.host, facts=answer, asked_at=asked_at, answered_at=time.time())

    reports: list[NodeReport] = []
    for link, found in zip(links, await each(links, one), strict=True):
        if isinstance(found, NodeReport):
            reports.append(found)
        else:
            error, fix = explain(found)
            reports.append(NodeReport(host=link.host, facts={}, error=error, fix=fix))
    return reports


def explain(error: LinkLostError | UserError) -> tuple[str, str]:
    """What is wrong and what to do, of an error of a link."""
    if isinstance(error, UserError):
        got = "" if error.got is None else f": {error.got}"
        return f"{error.what}{got}", error.fix or "see the log on that machine"
    return f"does not answer ({error})", "switch it on, check cable and address, and run worker_setup there"


def compare(reports: Sequence[NodeReport], config: ClusterConfig, *, cpu: bool) -> list[Finding]:
    """Everything that can be seen in the inventory alone."""
    found = [Finding(node=r.host.name, what=r.error, fix=r.fix) for r in reports if r.error]
    present = [report for report in reports if not report.error]
    for report in present:
        found += _clock(report, config.max_clock_offset_s)
        found += _machine(report, config, cpu=cpu)
    if present:
        first = present[0]
        for report in present[1:]:
            found += _same_versions(first, report)
    return found


def _clock(report: NodeReport, limit_s: float) -> list[Finding]:
    """The node's time must lie between question and answer, give or take the limit."""
    now = float(report.facts["time"])
    off = min(now - report.asked_at, 0.0) + max(now - report.answered_at, 0.0)
    if abs(off) <= limit_s:
        return []
    direction = "behind" if off < 0 else "ahead of"
    return [
        Finding(
            node=report.host.name,
            what=f"the clock is {abs(off):.1f} s {direction} this machine's",
            fix="synchronise it: `w32tm /resync` (Windows), `timedatectl set-ntp true` (Linux); worker_setup does",
        )
    ]


def _machine(report: NodeReport, config: ClusterConfig, *, cpu: bool) -> list[Finding]:
    host, facts, found = report.host, report.facts, list[Finding]()
    gpus = len(facts["gpus"])
    if host.gpus is not None and host.gpus != gpus and not cpu:
        found.append(
            Finding(
                node=host.name,
                what=f"{gpus} GPUs are there, {host.gpus} are expected",
                fix="correct GPUCount in workers.json, or install the driver: nvidia-smi must list them",
            )
        )
    if host.processes is not None and not cpu and 0 < gpus < host.processes:
        found.append(
            Finding(
                node=host.name,
                what=f"{host.processes} processes for {gpus} GPUs",
                fix="set Processes in workers.json to the number of GPUs at most, or train with --cpu",
            )
        )
    free = float(facts["free_bytes"]) / 2**30
    if free < config.min_free_gib:
        found.append(
            Finding(
                node=host.name,
                what=f"{free:.1f} GiB of disk are free in {facts['root']}, {config.min_free_gib:g} are required",
                fix="free some space, or set Root in workers.json to another disk",
            )
        )
    if not facts["versions"].get("torch"):
        found.append(
            Finding(node=host.name, what="PyTorch is not installed", fix="run `loraloom cluster deploy` again")
        )
    speed = facts.get("speed_mbit")
    if isinstance(speed, int) and speed < SLOW_MBIT:
        what = f"the network interface {facts.get('interface')} runs at {speed} Mbit/s"
        fix = "use a cable and a gigabit switch, or raise --gradient-accumulation: fewer messages for the same images"
        found.append(Finding(node=host.name, what=what, fix=fix, fatal=False))
    return found


def _same_versions(first: NodeReport, other: NodeReport) -> list[Finding]:
    found: list[Finding] = []
    ours, theirs = first.facts["versions"], other.facts["versions"]
    rows = [("Python", _minor(first.facts["python"]), _minor(other.facts["python"]))]
    rows += [(name, str(ours[name]).partition("+")[0], str(theirs.get(name, "")).partition("+")[0]) for name in ours]
    for name, here, there in rows:
        if here != there:
            found.append(
                Finding(
                    node=other.host.name,
                    what=f"{name} is {there or 'missing'}, on {first.host.name} it is {here or 'missing'}",
                    fix="run `loraloom cluster deploy` again: all nodes must compute with the same versions",
                )
            )
    drivers = [sorted({gpu["driver"] for gpu in report.facts["gpus"]}) for report in (first, other)]
    if all(drivers) and drivers[0] != drivers[1]:
        what = f"the driver is {', '.join(drivers[1])}, on {first.host.name} it is {', '.join(drivers[0])}"
        found.append(Finding(node=other.host.name, what=what, fix="install one driver on all nodes", fatal=False))
    return found


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


# ----------------------------------------------------------------------------------------------------------------- ports


async def check_ports(
    links: Sequence[Link],
    agents: Mapping[str, list[str]],
    addresses: Mapping[str, str],
    reports: Sequence[NodeReport],
    port: int,
) -> list[Finding]:
    """Whether every node can open connections to every other: to the run's ports, and to a port that the system picks.

    gloo and NCCL listen on ports that the system picks. A firewall that lets only the run's ports pass makes a run hang
    without a message, so a random port is tried in both directions.
    """
    if len(links) < 2:
        return []
    ranges = {report.host.name: report.facts.get("port_range") or [49152, 65535] for report in reports}
    chosen = {link.host.name: random.randint(*ranges[link.host.name]) for link in links}
    first = links[0].host.name
    ports = {name: [one, *(range(port, port + PORTS) if name == first else ())] for name, one in chosen.items()}

    async def listen(link: Link) -> dict[str, Any]:
        question = {"ports": ports[link.host.name], "seconds": LISTEN_S, "callers": len(links) - 1}
        return await link.ask([*agents[link.host.name], "listen"], question, timeout_s=LISTEN_S + 20)

    async def connect(link: Link) -> dict[str, str]:
        targets = [
            (addresses[other], one) for other, numbers in ports.items() if other != link.host.name for one in numbers
        ]
        return await link.ask([*agents[link.host.name], "connect"], {"targets": targets}, timeout_s=LISTEN_S + 40)

    listening, connecting = await asyncio.gather(each(links, listen), each(links, connect))
    busy = listening[0].get("busy", []) if isinstance(listening[0], dict) else []
    found: list[Finding] = []
    if len([one for one in busy if one != chosen[first]]) == PORTS:
        what = f"the ports {port} to {port + PORTS - 1} are in use"
        found.append(Finding(node=first, what=what, fix="stop what listens there, or choose another --port"))
    names = {address: name for name, address in addresses.items()}
    for link, outcome in zip(links, connecting, strict=True):
        if isinstance(outcome, dict):
            found += _unreachable(link.host.name, outcome, names, set(busy), ports)
        else:
            what, fix = explain(outcome)
            found.append(Finding(node=link.host.name, what=what, fix=fix))
    return found


def _unreachable(
    node: str, outcome: Mapping[str, str], names: Mapping[str, str], busy: set[int], ports: Mapping[str, Sequence[int]]
) -> list[Finding]:
    """One finding for each other node that cannot be reached; a port in use there is no fault of the network."""
    failed: dict[str, dict[int, str]] = {}
    for target, reason in outcome.items():
        address, _, number = target.rpartition(":")
        if reason and int(number) not in busy:
            failed.setdefault(names[address], {})[int(number)] = reason
    found: list[Finding] = []
    for other, reasons in failed.items():
        every = len(reasons) >= len([one for one in ports[other] if one not in busy])
        which = "any port" if every else ", ".join(f"port {one}" for one in sorted(reasons))
        hint = "" if every or max(reasons) < 29600 else "; the run's own ports are open, but gloo and NCCL use any port"
        found.append(
            Finding(
                node=node,
                what=f"cannot open a connection to {other} on {which} ({next(iter(reasons.values()))}){hint}",
                fix=f"run worker_setup on {other} with the addresses of all nodes: it lets them reach every port of Python",
            )
        )
    return found


async def check_data(
    links: Sequence[Link], agents: Mapping[str, list[str]], folders: Mapping[str, str], manifest: Manifest
) -> list[Finding]:
    """Whether every node has the master's data; the first files that differ are named."""

    async def one(link: Link) -> list[str]:
        return await data_differences(link, [*agents[link.host.name], "hash"], folders[link.host.name], manifest)

    found: list[Finding] = []
    for link, outcome in zip(links, await each(links, one), strict=True):
        if isinstance(outcome, list):
            if outcome:
                what = f"the data differ from this machine's: {'; '.join(outcome)}"
                fix = "remove Dataset from workers.json and let `launch` ship it, or copy the dataset again"
                found.append(Finding(node=link.host.name, what=what, fix=fix))
        else:
            what, fix = explain(outcome)
            found.append(Finding(node=link.host.name, what=what, fix=fix))
    return found
