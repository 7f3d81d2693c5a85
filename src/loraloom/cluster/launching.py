"""From settings and hosts to a supervised run: deploy, inventory, preflight, plan, launch.

In: the run's settings, the cluster's settings, hosts. Out: a finished run folder on this machine.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loraloom import plugins
from loraloom.cluster.deploying import (
    Release,
    data_manifest,
    data_name,
    deploy,
    make_archive,
    python_of,
    root_of,
    ship_data,
)
from loraloom.cluster.hosts import DEFAULT_ROOT, Host
from loraloom.cluster.links import Connect, Link, connect_by_transport, each
from loraloom.cluster.node_facts import own_address
from loraloom.cluster.outcomes import Outcome
from loraloom.cluster.plan import AttemptPlan, Member, RunPlan, as_text, plan_attempt, run_name
from loraloom.cluster.preflight import (
    Finding,
    NodeReport,
    check_data,
    check_ports,
    compare,
    explain,
    inspect_nodes,
)
from loraloom.cluster.supervisor import NodeView, Supervisor
from loraloom.cluster.trees import Manifest
from loraloom.config.cluster import ClusterConfig
from loraloom.config.reading import to_yaml
from loraloom.config.run import RunConfig
from loraloom.protocols.transport import LinkLostError
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.reporting import log
from loraloom.utils.safe_paths import short_hash
from loraloom.utils.untrusted import is_folder

Say = Callable[[str], None]
Show = Callable[[AttemptPlan, dict[str, NodeView]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Hosts with open links, and what is shipped to them.

    Attributes:
        hosts: In order of ranks; this machine first, where it trains.
        links: By name.
        release: The shipped project.
        master_address: This machine's address as the workers reach it.
        home_root: The master's own folder of data sums and releases.
    """

    hosts: tuple[Host, ...]
    links: Mapping[str, Link]
    release: Release
    master_address: str
    home_root: Path

    @property
    def agents(self) -> dict[str, list[str]]:
        """Host name -> the command of its node agent, without the verb."""
        return {host.name: [python_of(host), f"{root_of(host)}/{self.release.name}/node.py"] for host in self.hosts}

    def addresses(self) -> dict[str, str]:
        """Host name -> address as the other nodes reach it."""
        return {host.name: self.master_address if _is_master(host) else host.address for host in self.hosts}

    async def close(self) -> None:
        """Close all links."""
        await asyncio.gather(*(link.close() for link in self.links.values()))


MASTER = "master"


def _is_master(host: Host) -> bool:
    return host.transport == "local" and host.name == MASTER


def with_master(workers: Sequence[Host], config: ClusterConfig, python: str) -> tuple[Host, ...]:
    """The workers, after this machine where it trains too.

    Raises:
        UserError: A worker is called `master`; or nobody is left to train.
    """
    if any(host.name.lower() == MASTER for host in workers):
        raise UserError("a worker is called master", fix="give it another ComputerName: this machine has that name")
    if not config.master:
        return tuple(workers)
    system = "windows" if os.name == "nt" else "linux"
    here = Host(
        address="127.0.0.1",
        name=MASTER,
        transport="local",
        system=system,
        root=config.root or DEFAULT_ROOT,
        python=python,
    )
    return (here, *workers)


def address_of_master(hosts: Sequence[Host], config: ClusterConfig) -> str:
    """This machine's address on the way to the first worker that is another machine."""
    if config.master_address:
        return config.master_address
    away = next((host for host in hosts if host.transport != "local"), None)
    if away is None:
        return "127.0.0.1"
    try:
        return own_address(away.address)
    except OSError as error:
        raise UserError(
            f"there is no route to {away.address} ({error.strerror or error})",
            fix="check the address, or name this machine's own with --master-address",
        ) from None


def open_cluster(
    hosts: Sequence[Host], release: Release, config: ClusterConfig, connect: Connect = connect_by_transport
) -> Cluster:
    """A cluster with links that open when they are used."""
    for host in hosts:
        if not _secure(host):
            raise UserError(f"{host.name}: the transport {host.transport!r} is not encrypted")
    return Cluster(
        hosts=tuple(hosts),
        links={host.name: Link(host, connect) for host in hosts},
        release=release,
        master_address=address_of_master(hosts, config),
        home_root=Path.home() / Path(config.root or DEFAULT_ROOT).expanduser(),
    )


def _secure(host: Host) -> bool:
    return bool(plugins.load("transports", host.transport).secure)


async def deploy_all(cluster: Cluster, say: Say) -> list[Finding]:
    """Ship the release to all hosts at once; a host that fails is a finding, the others go their way."""
    archive = make_archive(cluster.release)
    try:
        links = [cluster.links[host.name] for host in cluster.hosts]
        outcomes = await each(links, lambda link: deploy(link, cluster.release, archive, say))
    finally:
        archive.unlink()
    return [
        _finding(host, outcome)
        for host, outcome in zip(cluster.hosts, outcomes, strict=True)
        if not isinstance(outcome, str)
    ]


def _finding(host: Host, error: LinkLostError | UserError) -> Finding:
    what, fix = explain(error)
    return Finding(node=host.name, what=what, fix=fix)


async def preflight(cluster: Cluster, config: ClusterConfig, *, cpu: bool) -> tuple[list[NodeReport], list[Finding]]:
    """The inventory of all hosts, and everything that is wrong without looking at data."""
    links = [cluster.links[host.name] for host in cluster.hosts]
    reports = await inspect_nodes(links, cluster.agents, cluster.master_address)
    findings = compare(reports, config, cpu=cpu)
    present = [cluster.links[report.host.name] for report in reports if not report.error]
    findings += await check_ports(present, cluster.agents, cluster.addresses(), reports, config.port)
    return reports, findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training to launch.

    Attributes:
        settings: The run's settings.
        arguments: More arguments of `loraloom train`.
        home: The run folder on this machine, absolute.
    """

    settings: RunConfig
    arguments: tuple[str, ...]
    home: Path

    @property
    def cpu(self) -> bool:
        """Whether all ranks train on the CPU."""
        return "--cpu" in self.arguments

    @property
    def name(self) -> str:
        """Name of the run on all nodes: two folders of one name on this machine are two runs."""
        return f"{run_name(self.home.name)}-{short_hash(str(self.home))[:8]}"


def job_of(settings: RunConfig, *, cpu: bool) -> Job:
    """The job of a run's settings.

    Raises:
        UserError: It has no dataset, or the dataset is not here.
    """
    if not settings.data.dataset:
        raise UserError("no dataset", fix="set data.dataset in the settings file, or with --set data.dataset=FOLDER")
    if not is_folder(Path(settings.data.dataset)):
        raise UserError(
            "the dataset is not here", got=settings.data.dataset, fix="name the folder that `prepare` wrote"
        )
    home = Path(settings.train.output).expanduser().absolute()
    return Job(settings=settings, arguments=("--cpu",) if cpu else (), home=home)


def plan_of(job: Job, config: ClusterConfig, model: str | None = None) -> RunPlan:
    """What is the same in all attempts. `model`: its folder below every root, where it was shipped."""
    settings = job.settings
    if model is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"source": model})})
    if config.lease_s <= config.suspect_s:
        raise UserError("--lease must be longer than --suspect", got=f"{config.lease_s:g} s and {config.suspect_s:g} s")
    return RunPlan(
        name=job.name,
        settings=to_yaml(settings),
        arguments=job.arguments,
        port=config.port,
        lease_s=config.lease_s,
        grace_s=config.grace_s,
        env={},
        strict=settings.train.strict,
    )


def member_of(cluster: Cluster, host: Host, job: Job, dataset: str, processes: int) -> Member:
    """A host as it takes part in a job."""
    return Member(
        host=host,
        processes=processes,
        address=cluster.addresses()[host.name],
        python=python_of(host),
        release=f"{root_of(host)}/{cluster.release.name}",
        dataset=host.dataset or dataset,
        run_folder=job.home.as_posix() if _is_master(host) else f"runs/{job.name}",
    )


def processes_of(report: NodeReport, *, cpu: bool) -> int:
    """Ranks of a node: as the user says, or one for each GPU that is there."""
    gpus = 0 if cpu else len(report.facts["gpus"])
    return report.host.processes or max(1, gpus)


async def ship_inputs(
    cluster: Cluster, hosts: Sequence[Host], job: Job, say: Say
) -> tuple[str, str | None, list[Finding]]:
    """Bring dataset and model folder to the hosts; returns their paths below each root, and what went wrong."""
    paths: list[str | None] = []
    findings: list[Finding] = []
    model = Path(job.settings.model.source).expanduser()
    for kind, folder in (("dataset", Path(job.settings.data.dataset)), ("model", model)):
        if kind == "model" and not model.is_dir():
            paths.append(None)  # a name on the hub, or a built-in one: every node opens it itself
            continue
        manifest = data_manifest(folder, cluster.home_root)
        own = {host.name: host.dataset for host in hosts if kind == "dataset" and host.dataset}
        links = [cluster.links[host.name] for host in hosts if host.name not in own]

        async def ship(link: Link, folder: Path = folder, manifest: Manifest = manifest) -> str:
            agent = [*cluster.agents[link.host.name], "hash"]
            return await ship_data(link, agent, folder, manifest, say)

        outcomes = await each(links, ship)
        failed = [(link, one) for link, one in zip(links, outcomes, strict=True) if not isinstance(one, str)]
        findings += [_finding(link.host, error) for link, error in failed]
        own_links = [cluster.links[name] for name in own]
        findings += await check_data(own_links, cluster.agents, {k: v for k, v in own.items() if v}, manifest)
        paths.append(data_name(folder, manifest))
    assert paths[0] is not None
    return paths[0], paths[1], findings


async def launch(
    cluster: Cluster,
    job: Job,
    config: ClusterConfig,
    say: Say,
    *,
    show: Show = lambda attempt, views: None,
    dry_run: bool = False,
    skip_deploy: bool = False,
) -> Outcome | None:
    """Deploy, check, and run a job to its end. `show` takes what is known of the nodes while it runs.

    Returns:
        How it ended; None after a dry run, which sends no data and starts nothing but inventories.

    Raises:
        UserError: Preflight found an error, or as `Supervisor.supervise`.
    """
    plan_of(job, config)
    try:
        findings = [] if skip_deploy or dry_run else await deploy_all(cluster, say)
        if dry_run:
            say(dry_text(cluster, job, config))
            return None
        reports, found = await preflight(cluster, config, cpu=job.cpu)
        findings += [one for one in found if (one.node, one.what) not in {(f.node, f.what) for f in findings}]
        present = [report for report in reports if not report.error]
        present = refuse_or_leave_out(
            findings, present, config, len(cluster.hosts), say, strict=job.settings.train.strict
        )
        hosts = [report.host for report in present]
        dataset, model, data_findings = await ship_inputs(cluster, hosts, job, say)
        present = refuse_or_leave_out(
            data_findings, present, config, len(cluster.hosts), say, strict=job.settings.train.strict
        )
        members = [
            member_of(cluster, report.host, job, dataset, processes_of(report, cpu=job.cpu)) for report in present
        ]
        world = sum(member.processes for member in members)
        data = job.settings.data.batch_size * job.settings.train.gradient_accumulation
        say(f"{counted(world, 'process')}: an optimizer step learns from up to {counted(world * data, 'image')}")
        supervisor = Supervisor(plan_of(job, config, model), members, config, job.home, say, show=show)
        with stop_on_signal(supervisor, say):
            return await supervisor.supervise()
    finally:
        await cluster.close()


def dry_text(cluster: Cluster, job: Job, config: ClusterConfig) -> str:
    """The commands of a first attempt, without asking anybody: the numbers of processes are those of the hosts' records."""
    lines = [f"release {cluster.release.name}: {counted(len(cluster.release.manifest.files), 'file')}"]
    for host in cluster.hosts:
        target = f"{root_of(host)}/{cluster.release.name}"
        lines.append(f"[{host.name}] tar -x -f - -C {target}  < {cluster.release.manifest.size:,} bytes")
    dataset = "data/" + (Path(job.settings.data.dataset).resolve().name or "data")
    counts = [host.processes or (0 if job.cpu else host.gpus) or 1 for host in cluster.hosts]
    members = [member_of(cluster, host, job, dataset, n) for host, n in zip(cluster.hosts, counts, strict=True)]
    attempt = plan_attempt(plan_of(job, config), members, 1)
    return "\n".join([*lines, as_text(attempt)])


def refuse_or_leave_out(
    findings: Sequence[Finding],
    present: Sequence[NodeReport],
    config: ClusterConfig,
    total: int,
    say: Say,
    *,
    strict: bool,
) -> list[NodeReport]:
    """Show all findings; the nodes without an error, when they are enough.

    Raises:
        UserError: A node is not fit, and `--min-nodes` or strict settings do not allow to leave it out.
    """
    for finding in findings:
        say(str(finding))
    bad = {finding.node for finding in findings if finding.fatal}
    good = [report for report in present if report.host.name not in bad]
    if len(good) < (total if strict else config.min_nodes or total) or not good:
        raise UserError(
            f"{len(bad)} of {total} nodes cannot train",
            got=", ".join(sorted(bad)),
            fix="repair what is listed above, or allow fewer nodes with --min-nodes",
        )
    if bad:
        log.warning(f"warning: {len(bad)} of {total} nodes are left out: {', '.join(sorted(bad))}")
    return good


@contextmanager
def stop_on_signal(supervisor: Supervisor, say: Say) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the gang to save and end; a closed terminal does not end the supervisor."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        say("stopping: the step is finished and a checkpoint is saved")
        loop.call_soon_threadsafe(supervisor.stopping.set)

    before: dict[int, object] = {}
    asked = time.monotonic() - 10

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if supervisor.stopping.is_set() and number == signal.SIGINT and time.monotonic() - asked > 1:
            raise KeyboardInterrupt
        asked = time.monotonic()
        ask()

    with suppress(ValueError):  # not the main thread: the caller stops it by `stopping`
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
