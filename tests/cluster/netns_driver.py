"""Runs a supervisor on host 1 of the laboratory: `python -m tests.cluster.netns_driver settings.json`.

Ranks are the stand-in training. Lines for the user go to stdout, what happened to `events.jsonl` beside the settings.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from loraloom.cluster.deploying import make_release
from loraloom.cluster.hosts import Host
from loraloom.cluster.launching import address_of_master, deploy_all, open_cluster, preflight
from loraloom.cluster.plan import Member, RunPlan
from loraloom.cluster.supervisor import Supervisor
from loraloom.config.cluster import ClusterConfig
from loraloom.utils.errors import UserError


async def work(folder: Path, given: dict[str, object]) -> None:
    hosts = [Host(**values) for values in given["hosts"]]  # type: ignore[attr-defined]
    config = ClusterConfig(**given["config"])  # type: ignore[arg-type]
    events = folder / "events.jsonl"

    def record(word: str, values: dict[str, object]) -> None:
        with events.open("a") as file:
            file.write(json.dumps({"time": time.time(), "word": word, **values}) + "\n")

    release = make_release(Path(str(given["project"])))
    cluster = open_cluster(hosts, release, config)
    began = time.monotonic()
    for finding in await deploy_all(cluster, print):
        raise UserError(str(finding))
    record("deployed", {"seconds": time.monotonic() - began})
    if given.get("preflight"):
        _, findings = await preflight(cluster, config, cpu=True)
        record("preflight", {"findings": [f"{one.node}: {one.what}" for one in findings]})
        await cluster.close()
        return
    members = [
        Member(
            host=host,
            processes=host.processes or 1,
            address=host.address if host.transport != "local" else address_of_master(hosts, config),
            python=sys.executable,
            release=f"{host.root if host.transport != 'local' else Path.home() / host.root}/{release.name}",
            dataset="data/none",
            run_folder=str(folder / "run") if host.transport == "local" else "runs/lab",
        )
        for host in hosts
    ]
    plan = RunPlan(
        name="lab",
        settings="",
        arguments=tuple(given["arguments"]),  # type: ignore[arg-type]
        port=config.port,
        lease_s=config.lease_s,
        grace_s=config.grace_s,
        env={},
        program=(str(Path(__file__).with_name("stand_in.py")),),
    )
    outcome = await Supervisor(plan, members, config, folder / "run", print, event=record).supervise()
    record("end", {"kind": outcome.kind})


def main() -> None:
    path = Path(sys.argv[1])
    asyncio.run(work(path.parent, json.loads(path.read_text())))


if __name__ == "__main__":
    main()
