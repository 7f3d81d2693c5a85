"""Many jobs, many machines: each job to the next free machine, its results fetched back, a lost machine loses no job.

In: jobs and a cluster. Out: a state for each job. A job's checkpoints are fetched as they appear; when its machine is lost
the job goes back to the front of the queue and continues elsewhere from the newest one. What the lost machine still
runs ends with its lease. A machine that is added to the file of workers joins while the queue runs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loraloom.cluster.deploying import deploy, make_archive
from loraloom.cluster.hosts import Host
from loraloom.cluster.launching import Cluster, Job, Say, member_of, plan_of, processes_of, ship_inputs
from loraloom.cluster.links import Link
from loraloom.cluster.outcomes import Outcome
from loraloom.cluster.plan import RunPlan
from loraloom.cluster.preflight import compare, explain, inspect_nodes
from loraloom.cluster.supervisor import Supervisor
from loraloom.config.cluster import ClusterConfig
from loraloom.protocols.transport import LinkLostError
from loraloom.utils.errors import UserError

Plan = Callable[[Job, ClusterConfig, str | None], RunPlan]


@dataclass(slots=True)
class JobState:
    """A job in the queue.

    Attributes:
        job: What is trained.
        state: `waiting`, `running`, `finished`, `stopped` or `failed`.
        node: Where it runs or ran last.
        tries: Attempts that ended with a fault.
        text: Why it failed.
    """

    job: Job
    state: str = "waiting"
    node: str = ""
    tries: int = 0
    text: str = ""


@dataclass(slots=True)
class Results:
    """All jobs of a queue."""

    jobs: list[JobState] = field(default_factory=list[JobState])

    @property
    def complete(self) -> bool:
        """Whether every job finished."""
        return all(job.state == "finished" for job in self.jobs)

    def rows(self) -> list[tuple[str, ...]]:
        """Name, node, state and folder of each."""
        return [
            (one.job.name, one.node or "-", f"{one.state} ({one.text})" if one.text else one.state, str(one.job.home))
            for one in self.jobs
        ]


async def run_jobs(
    cluster: Cluster,
    jobs: Sequence[Job],
    config: ClusterConfig,
    say: Say,
    *,
    read_again: Callable[[], list[Host]] | None = None,
    plan: Plan = plan_of,
) -> Results:
    """Run all jobs.

    Args:
        cluster: Hosts at the start.
        jobs: In the order in which they are given out.
        config: Limits; `min_nodes` has no effect.
        say: Takes lines for the user.
        read_again: Reads the hosts anew, for machines that join.
        plan: Makes the plan of a job's run.

    Raises:
        UserError: Two jobs have one run folder.
    """
    homes = [job.home for job in jobs]
    if twice := next((home for home in homes if homes.count(home) > 1), None):
        raise UserError("two jobs have one run folder", got=str(twice), fix="give each its own train.output")
    queue = _Queue(cluster, [JobState(job) for job in jobs], config, say, plan)
    return await queue.run(read_again)


class _Queue:
    def __init__(self, cluster: Cluster, states: list[JobState], config: ClusterConfig, say: Say, plan: Plan) -> None:
        self.cluster, self.states, self.config, self.say, self.plan = cluster, states, config, say, plan
        self.waiting = deque(states)
        self.changed = asyncio.Event()

    async def run(self, read_again: Callable[[], list[Host]] | None) -> Results:
        tasks = {host.name: asyncio.create_task(self._serve(host)) for host in self.cluster.hosts}
        try:
            while any(state.state in {"waiting", "running"} for state in self.states):
                self.changed.clear()
                try:
                    async with asyncio.timeout(self.config.rejoin_s):
                        await self.changed.wait()
                except TimeoutError:
                    self._join(read_again, tasks)
                for task in tasks.values():
                    if task.done():
                        task.result()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return Results(self.states)

    def _join(self, read_again: Callable[[], list[Host]] | None, tasks: "dict[str, asyncio.Task[None]]") -> None:
        """Take in the machines that were added to the file since."""
        if read_again is None:
            return
        try:
            hosts = read_again()
        except UserError as error:
            self.say(f"the file of workers cannot be read now: {error.what}; the machines that are known continue")
            return
        for host in hosts:
            if host.name not in tasks:
                self.say(f"[{host.name}] joins")
                links = {**self.cluster.links, host.name: Link(host)}
                self.cluster = _with_host(self.cluster, host, links)
                tasks[host.name] = asyncio.create_task(self._serve(host))

    async def _serve(self, host: Host) -> None:
        """One machine: prepare it, then take jobs until the queue is stopped."""
        said = ""
        while True:
            try:
                processes = await self._prepare(host)
                said = ""
                while True:
                    state = await self._next()
                    await self._do(host, state, processes)
            except (LinkLostError, UserError) as error:
                what, fix = explain(error)
                if what != said:
                    self.say(f"[{host.name}] takes no jobs: {what}\n  {fix}; it is tried again")
                    said = what
                await asyncio.sleep(self.config.rejoin_s)

    async def _prepare(self, host: Host) -> "_Fit":
        link = self.cluster.links[host.name]
        archive = make_archive(self.cluster.release)
        try:
            await deploy(link, self.cluster.release, archive, self.say)
        finally:
            archive.unlink()
        (report,) = await inspect_nodes([link], self.cluster.agents, self.cluster.master_address)
        cpu = all(state.job.cpu for state in self.states)
        for finding in compare([report], self.config, cpu=cpu):
            if finding.fatal:
                raise UserError(finding.what, fix=finding.fix)
            self.say(str(finding))
        return _Fit(with_gpus=processes_of(report, cpu=False), on_cpu=processes_of(report, cpu=True))

    async def _next(self) -> JobState:
        while not self.waiting:
            await asyncio.sleep(0.2)
        state = self.waiting.popleft()
        state.state = "running"
        return state

    async def _do(self, host: Host, state: JobState, fit: "_Fit") -> None:
        """One job on one machine, to its end or until the machine is lost."""
        job, state.node = state.job, host.name
        try:
            dataset, model, findings = await ship_inputs(self.cluster, [host], job, self.say)
            if findings:
                raise UserError(findings[0].what, fix=findings[0].fix)
            processes = fit.on_cpu if job.cpu else fit.with_gpus
            member = member_of(self.cluster, host, job, dataset, processes)
            supervisor = Supervisor(
                self.plan(job, self.config, model),
                [member],
                self.config,
                job.home,
                self.say,
                self.cluster.links[host.name].connect,
            )
            outcome = await supervisor.once()
        except asyncio.CancelledError:
            raise
        except LinkLostError as error:
            outcome = Outcome(kind="lost", node=host.name, text=str(error))
        except UserError as error:
            outcome = Outcome(kind="failed", node=host.name, text=str(error).replace("\n", " "), status=2)
        self._ended(host, state, outcome)
        if outcome.kind == "lost":
            raise LinkLostError(outcome.text)

    def _ended(self, host: Host, state: JobState, outcome: Outcome) -> None:
        if outcome.kind in {"finished", "stopped"}:
            state.state = outcome.kind
        else:
            state.tries += outcome.kind != "lost"
            if outcome.status == 2 or state.tries > self.config.max_restarts:
                state.state, state.text = "failed", outcome.text
            else:
                state.state = "waiting"
                self.waiting.appendleft(state)
                self.say(f"[{host.name}] {state.job.name} goes back to the queue: {outcome.text}")
        if state.state != "waiting":
            self.say(f"[{host.name}] {state.job.name}: {state.state}")
        self.changed.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """Processes of a machine for a job on GPUs, and for one on the CPU."""

    with_gpus: int
    on_cpu: int


def _with_host(cluster: Cluster, host: Host, links: dict[str, Link]) -> Cluster:
    return Cluster(
        hosts=(*cluster.hosts, host),
        links=links,
        release=cluster.release,
        master_address=cluster.master_address,
        home_root=cluster.home_root,
    )
