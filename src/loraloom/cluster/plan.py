"""Hosts, a run and an attempt to exact commands: which rank runs where, with which variables. Pure; nothing is started.

In: members (a host with what was found on it), the run's settings as text. Out: an `AttemptPlan`, the JSON that each node
agent reads, a configuration for `accelerate launch` by hand, and the commands as `--dry-run` prints them.

The order of the members is the order of the ranks; the first member holds rank 0 and the store of the process group.
Every attempt has a name and a port of its own, so that nothing of an earlier one can answer.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loraloom.cluster.hosts import Host
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.ranks import BACKEND

PORTS = 5
"""Ports that attempts take in turn: one that the system still holds back is not asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A host that takes part in an attempt.

    Attributes:
        host: The machine.
        processes: Ranks that it runs.
        address: Its address as the other members reach it.
        python: Its Python.
        release: The folder of the shipped project, relative to the login's home or absolute.
        dataset: The dataset on it, absolute or relative to its root.
        run_folder: The run folder on it, absolute or relative to its root.
    """

    host: Host
    processes: int
    address: str
    python: str
    release: str
    dataset: str
    run_folder: str

    def agent(self, verb: str) -> list[str]:
        """The command of the node agent there."""
        return [self.python, f"{self.release}/node.py", verb]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What is the same in all attempts of a run.

    Attributes:
        name: Name of the run: letters, digits, `_`, `-`, `.`.
        settings: The run's settings as YAML.
        arguments: More arguments of `loraloom train`, such as `--cpu`.
        port: First port.
        lease_s: As `ClusterConfig.lease_s`.
        grace_s: As `ClusterConfig.grace_s`.
        env: More variables of every rank.
        program: What Python runs.
        strict: Whether an attempt with fewer processes than planned is an error.
    """

    name: str
    settings: str
    arguments: tuple[str, ...]
    port: int
    lease_s: float
    grace_s: float
    env: Mapping[str, str]
    program: tuple[str, ...] = ("-m", "loraloom", "train")
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """The part of one node in an attempt.

    Attributes:
        member: The host.
        ranks: Its ranks, ascending and without a gap.
        command: Arguments of its Python for one rank; `{attempt}` is the attempt's folder on the node.
    """

    member: Member
    ranks: tuple[int, ...]
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPlan:
    """Everything that an attempt starts.

    Attributes:
        run: What is the same in all attempts.
        number: Number of the attempt, from 1.
        nodes: In order of ranks.
        world_size: Ranks of all nodes.
        master_address: Where rank 0 runs, as the others reach it.
        master_port: Port of the process group's store.
    """

    run: RunPlan
    number: int
    nodes: tuple[NodePlan, ...]
    world_size: int
    master_address: str
    master_port: int

    @property
    def id(self) -> str:
        """Name of the attempt; never used twice."""
        return f"{self.run.name}-{self.number}"

    @property
    def env(self) -> dict[str, str]:
        """Variables of all ranks: those of the run, and gloo where a Windows node takes part, which has no NCCL."""
        mixed = any(node.member.host.system == "windows" for node in self.nodes)
        return {**({BACKEND: "gloo"} if mixed else {}), **self.run.env}

    def for_node(self, node: NodePlan, owner: str) -> dict[str, Any]:
        """What the node's agent reads on stdin."""
        return {
            "run": self.run.name,
            "attempt": self.number,
            "id": self.id,
            "owner": owner,
            "ranks": list(node.ranks),
            "world_size": self.world_size,
            "master_address": self.master_address,
            "master_port": self.master_port,
            "command": list(node.command),
            "env": self.env,
            "lease_s": self.run.lease_s,
            "grace_s": self.run.grace_s,
            "run_folder": node.member.run_folder,
            "node": node.member.host.name,
            "nodes": [one.member.host.name for one in self.nodes],
            "files": {"run.yaml": self.run.settings, "accelerate.yaml": accelerate_yaml(self, node)},
        }


def plan_attempt(run: RunPlan, members: Sequence[Member], number: int) -> AttemptPlan:
    """Deal ranks to members in their order.

    Raises:
        UserError: No members.
    """
    if not members:
        raise UserError("no node answers", fix="see `loraloom cluster doctor` for the reason of each")
    nodes: list[NodePlan] = []
    rank = 0
    for member in members:
        command = [*run.program, "--config", "{attempt}/run.yaml"]
        command += ["--dataset", member.dataset, "--out", member.run_folder, *run.arguments]
        ranks = tuple(range(rank, rank + member.processes))
        nodes.append(NodePlan(member=member, ranks=ranks, command=tuple(command)))
        rank += member.processes
    return AttemptPlan(
        run=run,
        number=number,
        nodes=tuple(nodes),
        world_size=rank,
        master_address="127.0.0.1" if len(nodes) == 1 else members[0].address,
        master_port=run.port + number % PORTS,
    )


def run_name(text: str) -> str:
    """A name for a run from any text, such as its folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "run"


def accelerate_yaml(attempt: AttemptPlan, node: NodePlan) -> str:
    """A configuration file of `accelerate launch` for this node, to start the same gang by hand.

    accelerate divides `num_processes` by `num_machines`. Where nodes have unequal numbers of processes it would start the
    wrong number and not say so; the file then says in its first line that it is of no use.
    """
    equal = len({len(one.ranks) for one in attempt.nodes}) == 1
    gpus = bool(node.member.host.gpus) and "--cpu" not in attempt.run.arguments
    rows: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if attempt.world_size == 1 else "MULTI_GPU" if gpus else "MULTI_CPU",
        "machine_rank": attempt.nodes.index(node),
        "num_machines": len(attempt.nodes),
        "num_processes": attempt.world_size,
        "main_process_ip": attempt.master_address,
        "main_process_port": attempt.master_port,
        "rdzv_backend": "static",
        "mixed_precision": "no",
        "use_cpu": "--cpu" in attempt.run.arguments,
        "main_training_function": "main",
    }
    first = "# accelerate launch --config_file accelerate.yaml -m loraloom train --config run.yaml\n"
    if not equal:
        first = "# not for accelerate launch: it starts the same number of processes on every node; these have unequal ones\n"
    return first + "".join(f"{name}: {json.dumps(value)}\n" for name, value in rows.items())


def as_text(attempt: AttemptPlan) -> str:
    """The exact commands of an attempt, node by node, as `--dry-run` prints them."""
    count = counted(len(attempt.nodes), "node")
    lines = [f"attempt {attempt.id}: {attempt.world_size} processes on {count}"]
    for node in attempt.nodes:
        member = node.member
        variables = {
            "WORLD_SIZE": attempt.world_size,
            "LOCAL_WORLD_SIZE": len(node.ranks),
            "MASTER_ADDR": attempt.master_address,
            "MASTER_PORT": attempt.master_port,
            **({"USE_LIBUV": 0} if member.host.system == "windows" else {}),
            **attempt.env,
        }
        where = f"{member.host.transport}://{member.address}"
        lines.append(f"[{member.host.name}] {where}")
        lines.append(f"[{member.host.name}]   agent: {quoted(member.host, member.agent('start'))}")
        for local, rank in enumerate(node.ranks):
            chosen = {"RANK": rank, "LOCAL_RANK": local, **variables}
            shown = " ".join(f"{name}={value}" for name, value in chosen.items())
            lines.append(f"[{member.host.name} {rank}]   {shown} {quoted(member.host, [member.python, *node.command])}")
    return "\n".join(lines)


def quoted(host: Host, argv: Sequence[str]) -> str:
    """A command as it is typed on that host."""
    return subprocess.list2cmdline(argv) if host.system == "windows" else shlex.join(argv)
