"""The supervisor: starts the gang, watches it from outside, and restarts it from the newest checkpoint with whoever answers.

In: members, a run, links. Out: a finished run folder on the master, or a `UserError` that says why not.

    gather -> spread the newest checkpoint -> start all agents -> watch -> finished
       ^                                                            |
       +---- end what can be reached <---- a fault: exit, lost, stall, a node is back

The process group's own timeout is hours. Faults are seen here: a rank or an agent that ended, a node that does not answer
for longer than the suspect window, no progress of anybody. A shorter network fault costs nothing. A node that is cut off
ends its ranks itself when its lease runs out.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loraloom.cluster.checkpoints import fetch_checkpoint, fetch_run, is_here, newest_whole, spread
from loraloom.cluster.faults import cancel_all, late_faults
from loraloom.cluster.heartbeats import GangWatch, beats_of, hanging, stall_text
from loraloom.cluster.links import Connect, Link, connect_by_transport, each
from loraloom.cluster.outcomes import USER_MISTAKE, Outcome, cause_of, end_of, how_to_end, last_error, where
from loraloom.cluster.plan import AttemptPlan, Member, NodePlan, RunPlan, plan_attempt
from loraloom.config.cluster import ClusterConfig
from loraloom.protocols.transport import LinkLostError
from loraloom.utils.errors import UserError

ASK_S = 10.0
"""Seconds for an answer. A node that is slow, busy with importing say, is not lost: only silence counts."""
CAUSE_S = 10.0
"""Seconds that the node of a rank that ended has to say so, after another rank said that it lost it."""
TAIL_LINES = 30
_TOGETHER = (
    "see its first lines with `loraloom cluster logs {run}`: it must join the process group of all ranks; "
    "then begin again in another --out, for what was saved since then is of no use"
)
GPU_EVERY = 10
"""Questions between two for GPU figures: nvidia-smi takes a while."""


@dataclass(slots=True)
class NodeView:
    """What the supervisor knows of a node in the current attempt.

    Attributes:
        answered_at: `time.monotonic` of its last answer.
        answer: That answer.
        offsets: Rank -> bytes of its log that were read.
        partial: Rank -> begin of a line whose end was not read yet.
        tail: Its last lines.
        finished: Whether all its ranks ended with 0.
    """

    answered_at: float
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    offsets: dict[str, int] = field(default_factory=dict[str, int])
    partial: dict[str, bytes] = field(default_factory=dict[str, bytes])
    tail: list[str] = field(default_factory=list[str])
    finished: bool = False


class Supervisor:
    """One run on many machines.

    Args:
        run: What is the same in all attempts.
        members: Everybody who may take part, in order of ranks.
        config: Limits.
        home: The run folder on the master, absolute.
        say: Takes lines for the user.
        connect: Connects to a host.
        event: Takes what happens, for records and tests: a word and values.
        show: Takes the attempt and what is known of its nodes after each answer.
    """

    def __init__(
        self,
        run: RunPlan,
        members: Sequence[Member],
        config: ClusterConfig,
        home: Path,
        say: Callable[[str], None],
        connect: Connect = connect_by_transport,
        event: Callable[[str, dict[str, Any]], None] = lambda word, values: None,
        show: Callable[[AttemptPlan, dict[str, NodeView]], None] = lambda attempt, views: None,
    ) -> None:
        self.run, self.members, self.config, self.home, self.say = run, list(members), config, home, say
        self.links = {member.host.name: Link(member.host, connect) for member in members}
        self.owner = uuid.uuid4().hex[:12]
        self.stopping = asyncio.Event()
        self.views: dict[str, NodeView] = {}
        self._connect, self._event, self._show = connect, event, show
        self._min_nodes = config.min_nodes or len(self.members)
        self._world = self._number = 0

    async def supervise(self) -> Outcome:
        """Run to the end.

        Raises:
            UserError: The training refused its settings, too many restarts without progress, or another master took over.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        restarts, best = 0, newest_whole(self.home)
        attempt = await self._running()
        number = 0 if attempt else await self._last_number()
        try:
            while True:
                if attempt is None:
                    number += 1
                    attempt = await self._start(number)
                outcome = await self.watch(attempt) if attempt else self._not_started()
                self._event("outcome", {"kind": outcome.kind, "node": outcome.node, "text": outcome.text})
                number = attempt.number if attempt else number
                if outcome.kind == "taken":
                    raise UserError("another `cluster launch` took this run over", got=outcome.text)
                if outcome.kind == "finished":
                    await self._collect(attempt)
                    return outcome
                await self.end(attempt, "abort" if outcome.kind == "stalled" else how_to_end(outcome.kind))
                if outcome.kind == "stopped" or self.stopping.is_set():
                    await self._collect(attempt)
                    return outcome
                self._refuse_a_mistake(outcome)
                if outcome.kind == "apart":
                    raise UserError(
                        "the nodes do not train together", got=outcome.text, fix=_TOGETHER.format(run=self.run.name)
                    )
                newest = await self._newest()
                restarts = 0 if newest > best or outcome.kind == "back" else restarts + 1
                best = max(best, newest)
                if restarts > self.config.max_restarts:
                    raise self._given_up(outcome, restarts - 1)
                self.say(f"{where(outcome)}{outcome.text}; the gang is restarted from {newest or 'the beginning'}")
                await self._pause(min(30.0, 2.0 ** max(0, restarts - 1)) - 1.0)
                attempt = None
        finally:
            await asyncio.gather(*(link.close() for link in self.links.values()))

    async def once(self) -> Outcome:
        """One attempt on the one member, for a queue that gives a run to another machine when this one is lost.

        A member that does not answer at the start is lost at once. What finished is fetched home.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        attempt: AttemptPlan | None = None
        try:
            await self._answers(next(iter(self.links.values())))
            attempt = await self._start(await self._last_number() + 1)
            outcome = await self.watch(attempt) if attempt else Outcome(kind="failed", text="it did not start")
            if outcome.kind == "finished":
                await self._collect(attempt)
            elif outcome.kind != "lost":
                await self.end(attempt, "abort" if outcome.kind == "stalled" else how_to_end(outcome.kind))
            if outcome.status == USER_MISTAKE:
                return replace(outcome, text=last_error(self.views[outcome.node].tail))
            return outcome
        except asyncio.CancelledError:
            await self.end(attempt, "polite")
            raise
        finally:
            await asyncio.gather(*(link.close() for link in self.links.values()))

    # -------------------------------------------------------------------------------------------------------- start

    async def _running(self) -> AttemptPlan | None:
        """The attempt that runs on all its nodes already, of a master that was stopped or rebooted."""
        found = await self._runs()
        alive = {name: row for name, row in found.items() if row.get("agent")}
        if not alive:
            return None
        numbers = {row["attempt"] for row in alive.values()}
        names = next(iter(alive.values()))["nodes"]
        if len(numbers) == 1 and set(names) == set(alive) and set(names) <= set(self.links):
            members = [member for name in names for member in self.members if member.host.name == name]
            attempt = plan_attempt(self.run, members, numbers.pop())
            self.say(
                f"taking over attempt {attempt.id}, which runs on {', '.join(names)} with the settings of its start"
            )
            return attempt
        await self.end(None, "now")
        return None

    async def _runs(self) -> dict[str, dict[str, Any]]:
        async def one(link: Link) -> dict[str, Any]:
            member = self._member(link.host.name)
            answer = await link.ask(member.agent("runs"), {"run": self.run.name}, timeout_s=ASK_S)
            return answer["runs"].get(self.run.name, {})

        links = list(self.links.values())
        answers = await each(links, one)
        return {link.host.name: row for link, row in zip(links, answers, strict=True) if isinstance(row, dict) and row}

    async def _last_number(self) -> int:
        return max((int(row["attempt"]) for row in (await self._runs()).values()), default=0)

    async def _start(self, number: int) -> AttemptPlan | None:
        """Start an attempt with whoever answers; None when a node fell away meanwhile."""
        present = await self._gather()
        if not present:
            return None
        attempt, self._number = plan_attempt(self.run, present, number), number
        planned = sum(member.processes for member in self.members)
        if self.run.strict and attempt.world_size != planned:
            raise UserError(
                "fewer nodes than planned answer, and --strict forbids to train with them",
                got=f"{attempt.world_size} processes",
                expected=f"all {planned}",
                fix="repair the nodes, or set train.strict to false",
            )
        try:
            newest = await spread(self.links, present, self.home)
            names = ", ".join(f"{node.member.host.name} ({len(node.ranks)})" for node in attempt.nodes)
            self.say(
                f"attempt {attempt.id}: {attempt.world_size} processes on {names}, from {newest or 'the beginning'}"
            )
            if self._world and self._world != attempt.world_size:
                kept = "keeps its number of images" if newest else "learns from another number of images"
                self.say(f"note: {attempt.world_size} processes in place of {self._world}: an optimizer step {kept}")
            self._world = attempt.world_size
            self._event("start", {"number": number, "world_size": attempt.world_size, "from": newest})

            async def start(node: NodePlan) -> dict[str, Any]:
                link = self.links[node.member.host.name]
                question = attempt.for_node(node, self.owner)
                return await link.ask(node.member.agent("start"), question, timeout_s=60)

            for node, answer in zip(
                attempt.nodes, await asyncio.gather(*(start(node) for node in attempt.nodes)), strict=True
            ):
                if not answer["started"]:
                    raise UserError(f"{node.member.host.name}: the ranks did not start", got=str(answer["reason"]))
        except (LinkLostError, UserError) as error:
            self.say(f"attempt {attempt.id} did not start: {error}")
            await self.end(attempt, "now")
            return None
        now = time.monotonic()
        self.views = {node.member.host.name: NodeView(now) for node in attempt.nodes}
        return attempt

    async def _gather(self) -> list[Member]:
        """Members that answer, in their order; waits until they are enough."""
        said = False
        while not self.stopping.is_set():
            links = list(self.links.values())
            answers = await each(links, lambda link: self._answers(link))
            present = [member for member, answer in zip(self.members, answers, strict=True) if answer is True]
            if len(present) >= self._min_nodes:
                return present
            if not said:
                missing = [
                    f"{member.host.name} ({answer})"
                    for member, answer in zip(self.members, answers, strict=True)
                    if answer is not True
                ]
                self.say(
                    f"waiting for {', '.join(missing)}: {len(present)} of {len(self.members)} nodes answer, "
                    f"{self._min_nodes} are required (--min-nodes)"
                )
                said = True
            await self._pause(min(5.0, self.config.rejoin_s))
        return []

    async def _answers(self, link: Link) -> bool:
        """Raises where it does not. A stop of the newest attempt, asked for while nothing runs, is heard here."""
        question = {"run": self.run.name, "run_folder": self._member(link.host.name).run_folder}
        answer = await link.ask(self._member(link.host.name).agent("checkpoint"), question, timeout_s=ASK_S)
        if answer["stopped"] and answer["stopped"] == self._number:
            self.stopping.set()
        return True

    def _not_started(self) -> Outcome:
        if self.stopping.is_set():
            return Outcome(kind="stopped", text="asked to stop")
        return Outcome(kind="failed", text="it did not start")

    # -------------------------------------------------------------------------------------------------------- watch

    async def watch(self, attempt: AttemptPlan) -> Outcome:
        """Attend an attempt until it ends or shows a fault."""
        now, gang = time.monotonic(), GangWatch(attempt.world_size)
        for node in attempt.nodes:
            self.views.setdefault(node.member.host.name, NodeView(now))
        tasks = [asyncio.create_task(self._watch_node(attempt, node)) for node in attempt.nodes]
        others = [
            asyncio.create_task(self._watch_progress()),
            asyncio.create_task(self._watch_gang(gang)),
            asyncio.create_task(self._watch_missing(attempt)),
            asyncio.create_task(self._watch_stop()),
        ]
        if not is_here(first := attempt.nodes[0].member, self.home):
            others.append(asyncio.create_task(self._fetch_checkpoints(first)))
        pending: set[asyncio.Task[Outcome]] = {*tasks, *others}
        try:
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                outcomes = [task.result() for task in done]
                faults = [outcome for outcome in outcomes if outcome.kind != "finished"]
                if faults:
                    return cause_of([*faults, *await late_faults(faults, tasks, CAUSE_S)])
                if all(task.done() for task in tasks):
                    return self._apart(gang) or Outcome(kind="finished")
        finally:
            await cancel_all(pending)

    async def _watch_node(self, attempt: AttemptPlan, node: NodePlan) -> Outcome:
        member, view, count = node.member, self.views[node.member.host.name], 0
        link, name = self.links[member.host.name], member.host.name
        take = True  # at first: an attempt of an earlier master is taken over
        view.answered_at = time.monotonic()
        while True:
            question = {
                "run": self.run.name,
                "attempt": attempt.number,
                "owner": self.owner,
                "take": take,
                "offsets": view.offsets,
                "gpus": count % GPU_EVERY == 0,
                "run_folder": member.run_folder,
            }
            try:
                answer = await link.ask(member.agent("poll"), question, timeout_s=ASK_S)
            except (LinkLostError, UserError) as error:
                silent = time.monotonic() - view.answered_at
                if silent > self.config.suspect_s:
                    return Outcome(kind="lost", node=name, text=f"does not answer for {silent:.0f} s ({error})")
                await asyncio.sleep(min(self.config.poll_s, 1.0))
                continue
            take, count = False, count + 1
            view.answered_at = time.monotonic()
            if answer["agent"] == "taken":
                return Outcome(kind="taken", node=name, text=str(answer.get("owner", "")))
            self._take_logs(name, view, answer)
            view.answer = {**answer, "gpus": answer.get("gpus") or view.answer.get("gpus")}
            self._show(attempt, self.views)
            if (end := end_of(name, answer)) is not None:
                view.finished = end.kind == "finished"
                return end
            await asyncio.sleep(self.config.poll_s)

    async def _fetch_checkpoints(self, member: Member) -> Outcome:
        """Bring each new checkpoint home while the run is alive: the node may be gone when it would be wanted.

        Over a link of its own, beside the questions: a node whose master is silent while it fetches ends its ranks.
        """
        view, link = self.views[member.host.name], Link(member.host, self._connect)
        try:
            while True:
                name = str(view.answer.get("checkpoint", ""))
                if name and not (self.home / "checkpoints" / name).exists():
                    with suppress(LinkLostError, UserError):  # the questions find out
                        if await fetch_checkpoint(link, member, self.home, name):
                            self._event("fetched", {"name": name, "node": member.host.name})
                await asyncio.sleep(self.config.poll_s)
        finally:
            await link.close()

    async def _watch_progress(self) -> Outcome:
        """Ends when nobody wrote anything for too long while all of them answer."""
        seen, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(min(self.config.stall_s / 4, 5.0))
            now = time.monotonic()
            progress = sum(int(view.answer.get("progress", 0)) for view in self.views.values())
            silent = any(now - view.answered_at > 2 * ASK_S for view in self.views.values() if not view.finished)
            if progress != seen or silent:
                seen, since = progress, now
            elif now - since > self.config.stall_s:
                return self._stalled(now - since)

    def _stalled(self, seconds: float) -> Outcome:
        """Nobody moves: the outcome names the rank that the others wait for, where the heartbeats tell."""
        beats = beats_of({name: view.answer for name, view in self.views.items()})
        late, clause = hanging(beats), stall_text(beats)
        text = f"no progress for {seconds:.0f} s" + (f": {clause}" if clause else "")
        node, rank = (late[0].node, late[0].rank) if len(late) == 1 else ("", None)
        return Outcome(kind="stalled", node=node, rank=rank, text=text)

    async def _watch_gang(self, gang: GangWatch) -> Outcome:
        """Ends when ranks are in groups of their own or hold different weights: they cannot always notice that themselves."""
        while True:
            await asyncio.sleep(self.config.poll_s)
            if outcome := self._apart(gang):
                return outcome

    def _apart(self, gang: GangWatch) -> Outcome | None:
        found = gang.fault(beats_of({name: view.answer for name, view in self.views.items()}))
        return Outcome(kind="apart", node=found.node, rank=found.rank, text=found.text) if found else None

    async def _watch_missing(self, attempt: AttemptPlan) -> Outcome:
        """Ends when a member that does not take part answers again, twice in a row."""
        taking_part = {node.member.host.name for node in attempt.nodes}
        missing = [link for name, link in self.links.items() if name not in taking_part]
        answered: dict[str, int] = {}
        while True:
            await asyncio.sleep(self.config.rejoin_s)
            for link, answer in zip(missing, await each(missing, self._answers), strict=True):
                answered[link.host.name] = answered.get(link.host.name, 0) + 1 if answer is True else 0
                if answered[link.host.name] >= 2:
                    return Outcome(kind="back", node=link.host.name, text="answers again and joins")

    async def _watch_stop(self) -> Outcome:
        await self.stopping.wait()
        return Outcome(kind="stopped", text="asked to stop")

    def _take_logs(self, name: str, view: NodeView, answer: dict[str, Any]) -> None:
        for rank, text in answer.get("logs", {}).items():
            chunk = text.encode("latin-1")
            view.offsets[rank] = view.offsets.get(rank, 0) + len(chunk)
            *lines, view.partial[rank] = (view.partial.get(rank, b"") + chunk).split(b"\n")
            if answer["agent"] != "running" and len(chunk) == 0 and view.partial[rank]:
                lines, view.partial[rank] = [view.partial[rank]], b""
            for line in lines:
                shown = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
                view.tail = [*view.tail[-TAIL_LINES:], shown]
                self.say(f"[{name} {rank}] {shown}")

    # ---------------------------------------------------------------------------------------------------------- end

    async def end(self, attempt: AttemptPlan | None, how: str) -> None:
        """End an attempt, or all of the run, on every node that can be reached."""

        async def one(link: Link) -> dict[str, Any]:
            question = {"run": self.run.name, "attempt": attempt.number if attempt else None, "how": how}
            wait = self.run.grace_s + 40 if how == "polite" else 40
            return await link.ask(self._member(link.host.name).agent("stop"), question, timeout_s=wait)

        taking_part = {node.member.host.name for node in attempt.nodes} if attempt else set(self.links)
        await each([link for name, link in self.links.items() if name in taking_part], one)

    async def _newest(self) -> str:
        """The newest checkpoint, after every member that answers was asked for its own."""
        answers = await each(list(self.links.values()), self._answers)
        present = [member for member, answer in zip(self.members, answers, strict=True) if answer is True]
        try:
            return await spread(self.links, present, self.home)
        except (LinkLostError, UserError):
            return newest_whole(self.home)

    async def _collect(self, attempt: AttemptPlan | None) -> None:
        """Bring the run folder home from the node of rank 0."""
        if attempt is None:
            return
        first = attempt.nodes[0].member
        if is_here(first, self.home):
            return
        try:
            link = self.links[first.host.name]
            answer = await link.ask(first.agent("checkpoint"), {"run_folder": first.run_folder})
            if answer["checkpoint"]:
                await fetch_checkpoint(link, first, self.home, str(answer["checkpoint"]))
            await fetch_run(link, first, self.home)
        except (LinkLostError, UserError) as error:
            raise UserError(
                f"the run ended, but its folder could not be fetched from {first.host.name}",
                got=str(error),
                fix="run the same command again",
            ) from None

    def _refuse_a_mistake(self, outcome: Outcome) -> None:
        if outcome.status == USER_MISTAKE:
            raise UserError(
                f"rank {outcome.rank} of {outcome.node} refused to train",
                got=last_error(self.views[outcome.node].tail),
                fix="repair it and launch again: another attempt would end the same",
            )

    def _given_up(self, outcome: Outcome, restarts: int) -> UserError:
        tail = self.views[outcome.node].tail if outcome.node in self.views else []
        return UserError(
            f"the run was restarted {restarts} times without a new checkpoint; the last fault: "
            f"{where(outcome)}{outcome.text}",
            got=last_error(tail) or None,
            fix="see the log of that node: `loraloom cluster logs`",
        )

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until somebody asks to stop."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self.stopping.wait()
        except TimeoutError:
            return

    def _member(self, name: str) -> Member:
        return next(member for member in self.members if member.host.name == name)
