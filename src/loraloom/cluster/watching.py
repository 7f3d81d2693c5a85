"""Tables of nodes and runs, last lines of logs, and the end of runs: for whoever is not the supervisor.

In: a cluster. Out: rows and lines. No lease is extended: looking at a run does not keep it alive.
"""

from collections.abc import Sequence
from typing import Any

from loraloom.cluster.launching import Cluster
from loraloom.cluster.links import Link, each
from loraloom.cluster.preflight import NodeReport, explain

Row = tuple[str, ...]


async def status_rows(cluster: Cluster) -> list[Row]:
    """One row for each run of each node; one for a node without runs, or without an answer."""

    async def one(link: Link) -> list[Row]:
        agent = cluster.agents[link.host.name]
        runs = (await link.ask([*agent, "runs"]))["runs"]
        rows = [await _run_row(link, agent, name, row) for name, row in runs.items()]
        return rows or [(link.host.name, "-", "", "", "", "", "", "", "", "idle")]

    rows: list[Row] = []
    links = [cluster.links[host.name] for host in cluster.hosts]
    for link, found in zip(links, await each(links, one), strict=True):
        if isinstance(found, list):
            rows += found
        else:
            rows.append((link.host.name, "-", "", "", "", "", "", "", "", explain(found)[0]))
    return rows


async def _run_row(link: Link, agent: Sequence[str], name: str, run: dict[str, Any]) -> Row:
    question = {
        "run": name,
        "attempt": run["attempt"],
        "owner": "",
        "take": True,
        "extend": False,
        "gpus": True,
        "run_folder": run["run_folder"],
    }
    answer: dict[str, Any] = await link.ask([*agent, "poll"], question)
    gpus = answer.get("gpus") or []
    busy, memory = gpu_cells(gpus)
    ranks = ",".join(str(row["rank"]) for row in run["ranks"])
    numbers = answer.get("numbers") or {}
    speed = numbers.get("images_per_second")
    state = answer["agent"] if answer["agent"] == "running" else answer.get("reason") or answer["agent"]
    return (
        link.host.name,
        name,
        str(run["attempt"]),
        ranks,
        str(len(gpus)),
        busy,
        memory,
        str(numbers.get("step", "")),
        f"{speed:.1f}" if isinstance(speed, (int, float)) else "",
        str(state),
    )


def gpu_cells(gpus: Any) -> tuple[str, str]:
    """Utilization and used memory of a node's GPUs; empty without any."""
    found = gpus or []
    busy = "/".join(f"{gpu['busy_percent']}%" for gpu in found)
    return busy, "/".join(f"{(gpu['used_mib'] or 0) / 1024:.1f} GiB" for gpu in found)


async def log_lines(cluster: Cluster, run: str, count: int) -> list[str]:
    """The last lines of every rank of a run's newest attempt, `[node rank]` before each."""

    async def one(link: Link) -> list[str]:
        agent = cluster.agents[link.host.name]
        row = (await link.ask([*agent, "runs"], {"run": run}))["runs"].get(run)
        if row is None:
            return []
        answer = await link.ask([*agent, "tail"], {"run": run, "attempt": row["attempt"], "lines": count})
        return [f"[{link.host.name} {rank}] {line}" for rank, lines in answer["ranks"].items() for line in lines]

    lines: list[str] = []
    links = [cluster.links[host.name] for host in cluster.hosts]
    for link, found in zip(links, await each(links, one), strict=True):
        lines += found if isinstance(found, list) else [f"[{link.host.name}] {explain(found)[0]}"]
    return lines or [f"no node knows a run {run!r}; `loraloom cluster status` lists them"]


async def stop_runs(cluster: Cluster, run: str | None, how: str) -> tuple[list[str], bool]:
    """End a run, or all runs, on every node; lines for the user, and whether every node answered."""

    async def one(link: Link) -> list[str]:
        agent = cluster.agents[link.host.name]
        names = [run] if run else list((await link.ask([*agent, "runs"]))["runs"])
        lines: list[str] = []
        for name in names:
            question = {"run": name, "how": how, "by_user": True}
            answer = await link.ask([*agent, "stop"], question, timeout_s=3700)
            lines.append(f"[{link.host.name}] {name}: {answer['ended']} processes ended")
        return lines or [f"[{link.host.name}] nothing runs"]

    texts, complete = list[str](), True
    links = [cluster.links[host.name] for host in cluster.hosts]
    for link, found in zip(links, await each(links, one), strict=True):
        if isinstance(found, list):
            texts += found
        else:
            complete = False
            texts.append(f"[{link.host.name}] {explain(found)[0]}; its processes end when their lease runs out")
    return texts, complete


def inventory_rows(reports: Sequence[NodeReport], addresses: dict[str, str]) -> list[Row]:
    """What every node is."""
    rows: list[Row] = []
    for report in reports:
        name, facts = report.host.name, report.facts
        if report.error:
            rows.append((name, addresses[name], "-", "-", "-", "-", "-", "-"))
            continue
        gpus = ", ".join(f"{gpu['name']} {(gpu['memory_mib'] or 0) / 1024:.0f} GiB" for gpu in facts["gpus"])
        speed = f" {facts['speed_mbit']} Mbit/s" if isinstance(facts.get("speed_mbit"), int) else ""
        rows.append(
            (
                name,
                addresses[name],
                f"{facts['system']} {facts['release']}",
                gpus or "none",
                f"{facts['memory_bytes'] / 2**30:.0f} GiB",
                f"{facts['free_bytes'] / 2**30:.0f} GiB",
                f"{facts.get('interface') or '-'}{speed}",
                str(facts["versions"].get("torch") or "-"),
            )
        )
    return rows
