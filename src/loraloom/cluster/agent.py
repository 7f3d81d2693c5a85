"""The node agent: starts the ranks of one attempt on its machine, and ends them when nobody attends any more.

    python node.py start < plan.json      start an attempt; whatever an earlier one left is ended first
    python node.py poll < question.json   extend the lease; say what runs, and what was written since
    python node.py stop < question.json   end an attempt: politely (a checkpoint is saved), or at once
    python node.py facts|hash|check|listen|connect

A run's state is what its processes are: numbers with start times are kept, never a flag that a power cut would leave
wrong. The lease is a file that the master rewrites; its changes are timed by this machine's own clock. When it stops
changing, the ranks end: no orphan keeps a GPU. Standard library only.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loraloom.cluster import node_facts, trees
from loraloom.utils.atomic_files import write_text
from loraloom.utils.heartbeat import HEARTBEAT, read_heartbeat
from loraloom.utils.processes import (
    ProcessId,
    end_with_parent,
    identify,
    is_stopped,
    kill_group,
    share_of_threads,
    signal_process,
    start_detached,
    this_process,
    wait_for_end,
)
from loraloom.utils.ranks import LOST

TICK_S = 0.2
STOPPED = "stopped"
"""File of an attempt that the user asked to stop: whoever supervises it reads that it is not to be restarted."""
STOPPING = "stop"
"""Owner of a lease that `stop` extends while a checkpoint is saved; nobody took the run over."""
_OF_RANK = re.compile(r"rank_\d+_images_per_second")
ENDED_BY_STOP = {-signal.SIGTERM, LOST}
"""How ranks end that are asked to stop before they listen for it: by the signal, or because another one did."""
LOG_BYTES = 1 << 16
"""Most bytes of one rank's log in one answer."""


class Attempt:
    """The files of one attempt of a run on this node."""

    def __init__(self, root: Path, run: str, number: int) -> None:
        self.folder = root / "runs" / run / ".cluster" / f"attempt-{number:04d}"
        self.number = number

    @property
    def plan(self) -> dict[str, Any]:
        return _read(self.folder / "plan.json")

    @property
    def state(self) -> dict[str, Any]:
        return _read(self.folder / "agent.json")

    @property
    def agent(self) -> ProcessId:
        return _process(self.state.get("agent"))

    @property
    def ranks(self) -> list[tuple[int, ProcessId, int | None]]:
        """Rank, process, exit status (None: not known to have ended)."""
        return [(row["rank"], _process(row), row["status"]) for row in self.state.get("ranks", [])]

    def log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"

    def heartbeat(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.heartbeat"


def attempts(root: Path, run: str) -> list[Attempt]:
    """All attempts of a run on this node, in order."""
    found = (root / "runs" / run / ".cluster").glob("attempt-[0-9]*")
    return [Attempt(root, run, int(path.name.removeprefix("attempt-"))) for path in sorted(found)]


# ------------------------------------------------------------------------------------------------------ start and run


def start(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Start the agent of an attempt, detached, and wait until its ranks have numbers."""
    for old in attempts(root, plan["run"]):
        _end_now(old)
    attempt = Attempt(root, plan["run"], int(plan["attempt"]))
    attempt.folder.mkdir(parents=True, exist_ok=True)
    for name, text in plan.get("files", {}).items():
        write_text(attempt.folder / name, text)
    write_text(attempt.folder / "plan.json", json.dumps(dict(plan), indent=1))
    write_text(attempt.folder / "lease", f"{plan['owner']} start")
    line = [sys.executable, str(Path(sys.argv[0]).resolve()), "run", plan["run"], str(attempt.number)]
    start_detached(line, folder=root, log=attempt.folder / "agent.log")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = attempt.state
        if state.get("ranks") or state.get("reason"):
            return {"started": True, "agent": state["agent"], "reason": state.get("reason", "")}
        time.sleep(0.05)
    return {"started": False, "reason": _tail(attempt.folder / "agent.log") or "the agent did not start"}


def run(root: Path, name: str, number: int) -> None:
    """The agent itself: owns the ranks until they end or are to end."""
    attempt = Attempt(root, name, number)
    plan = attempt.plan
    state: dict[str, Any] = {"agent": _row(this_process()), "ranks": [], "reason": ""}
    interface = None
    with suppress(OSError):
        interface = node_facts.interface_of(node_facts.own_address(plan["master_address"]))
    state["interface"] = interface
    children: list[subprocess.Popen[bytes]] = []
    try:
        for local, rank in enumerate(plan["ranks"]):
            children.append(_start_rank(root, attempt, plan, rank, local, interface))
            state["ranks"].append({"rank": rank, **_row(identify(children[-1].pid)), "status": None})
        write_text(attempt.folder / "agent.json", json.dumps(state))
        state["reason"] = _watch(attempt, plan, state, children)
    except BaseException as error:
        state["reason"] = f"the agent failed: {type(error).__name__}: {error}"
        raise
    finally:
        for row, child in zip(state["ranks"], children, strict=False):
            kill_group(_process(row))
            with suppress(subprocess.TimeoutExpired):
                row["status"] = child.wait(10) if row["status"] is None else row["status"]
        write_text(attempt.folder / "agent.json", json.dumps(state))


def _start_rank(
    root: Path, attempt: Attempt, plan: Mapping[str, Any], rank: int, local: int, interface: str | None
) -> "subprocess.Popen[bytes]":
    release = Path(sys.argv[0]).resolve().parent
    paths = [str(release / "src"), str(release), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**share_of_threads(len(plan["ranks"])), **os.environ, HEARTBEAT: str(attempt.heartbeat(rank))}
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env |= node_facts.variables(plan, rank, local, interface)
    options: dict[str, Any] = {"start_new_session": True, "preexec_fn": end_with_parent()}
    if os.name == "nt":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # pyright: ignore[reportAttributeAccessIssue]
    command = [part.replace("{attempt}", attempt.folder.as_posix()) for part in plan["command"]]
    with attempt.log(rank).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            **options,
        )  # pyright: ignore[reportReturnType]


def _watch(
    attempt: Attempt, plan: Mapping[str, Any], state: dict[str, Any], children: "list[subprocess.Popen[bytes]]"
) -> str:
    """Wait for the end of the ranks; returns why they ended."""
    lease, lease_at = _text(attempt.folder / "lease"), time.monotonic()
    asked_at: float | None = None
    while True:
        time.sleep(TICK_S)
        if (now := _text(attempt.folder / "lease")) != lease:
            lease, lease_at = now, time.monotonic()
        changed = False
        for row, child in zip(state["ranks"], children, strict=True):
            if row["status"] is None and (status := child.poll()) is not None:
                row["status"], changed = status, True
        if changed:
            write_text(attempt.folder / "agent.json", json.dumps(state))
        statuses = [row["status"] for row in state["ranks"]]
        if any(statuses):
            time.sleep(1.0)  # what the others of this node have to say of it
            row = next(row for row in state["ranks"] if row["status"])
            if asked_at is not None and set(filter(None, statuses)) <= ENDED_BY_STOP:
                return "stopped"
            return f"rank {row['rank']} {ended(row['status'])}"
        if all(status == 0 for status in statuses):
            return "stopped" if asked_at is not None else "finished"
        if time.monotonic() - lease_at > plan["lease_s"]:
            return f"the lease ran out: nobody asked for {plan['lease_s']:g} s"
        if (attempt.folder / "stop").exists() and asked_at is None:
            asked_at = time.monotonic()
            for row in state["ranks"]:
                signal_process(_process(row), signal.SIGTERM)
        if asked_at is not None and (os.name == "nt" or time.monotonic() - asked_at > plan["grace_s"]):
            return "stopped"
        if (attempt.folder / "abort").exists():
            for row in state["ranks"]:  # Python's fault handler writes every thread's stack into the rank's log
                signal_process(_process(row), signal.SIGABRT)
            time.sleep(1.0)
            return "no progress"


def ended(status: int) -> str:
    """How a process ended, for messages."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _end_now(attempt: Attempt) -> None:
    """End what an attempt still runs: its agent first, which would see its ranks die, then the ranks."""
    kill_group(attempt.agent) if attempt.agent.running() else None
    ranks = [process for _, process, _ in attempt.ranks]
    for process in ranks:
        kill_group(process)
    wait_for_end(ranks, 10)


# -------------------------------------------------------------------------------------------------------- poll and stop


def poll(root: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """Extend the lease of an attempt and report it.

    `question`: run, attempt, owner, take (take the lease over from another owner), offsets (rank -> bytes already read),
    gpus (whether to ask for GPU figures), run_folder.
    """
    attempt = Attempt(root, question["run"], int(question["attempt"]))
    if not attempt.folder.is_dir():
        return {"agent": "absent"}
    owner = _text(attempt.folder / "lease").split(" ")[0]
    if owner not in {question["owner"], STOPPING} and not question.get("take"):
        return {"agent": "taken", "owner": owner}
    if question.get("extend", True):
        write_text(attempt.folder / "lease", f"{question['owner']} {time.monotonic_ns()}")
    running = attempt.agent.running()  # before its state is read: it writes why it ends, then it ends
    state, ranks = attempt.state, attempt.ranks
    reason = state.get("reason", "") or ("stopped" if (attempt.folder / STOPPED).exists() else "")
    beats = {rank: read_heartbeat(attempt.heartbeat(rank)) for rank, _, _ in ranks}
    logs: dict[str, str] = {}
    sizes = 0
    for rank in attempt.plan.get("ranks", []):
        with suppress(OSError), attempt.log(rank).open("rb") as file:
            sizes += os.fstat(file.fileno()).st_size
            file.seek(int(question.get("offsets", {}).get(str(rank), 0)))
            logs[str(rank)] = file.read(LOG_BYTES).decode("latin-1")  # bytes one to one: a character may be cut in two
    folder = root / question["run_folder"]
    events = folder / "events.jsonl"
    sizes += events.stat().st_size if events.is_file() else 0
    return {
        "agent": "running" if running else "ended" if reason else "dead",
        "reason": reason,
        "ranks": [
            {
                "rank": rank,
                "status": status,
                "running": process.running(),
                "stopped": is_stopped(process.pid),
                "heartbeat": beats[rank],
            }
            for rank, process, status in ranks
        ],
        "logs": logs,
        "progress": sizes + sum(int(beat.get("entered", 0)) for beat in beats.values()),
        "checkpoint": newest_checkpoint(folder),
        "numbers": _last_numbers(events),
        "finished": (folder / "adapter.safetensors").is_file() or (folder / "model").is_dir(),
        "gpus": node_facts.gpus() if question.get("gpus") else None,
        "traffic": node_facts.traffic_bytes(state.get("interface")),
        "interface": state.get("interface"),
    }


def stop(root: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """End an attempt, or all of a run. `how`: `polite` saves a checkpoint, `abort` writes stacks first, `now` kills.

    Without `by_user` it is the supervisor that clears a broken attempt away, to start the next one.
    """
    chosen = attempts(root, question["run"])
    if question.get("attempt") is not None:
        chosen = [attempt for attempt in chosen if attempt.number == int(question["attempt"])]
    if question.get("by_user") and chosen:
        write_text(chosen[-1].folder / STOPPED, "")
    how = question.get("how", "polite")
    ended_ranks = 0
    for attempt in chosen:
        agent, ranks = attempt.agent, [process for _, process, _ in attempt.ranks]
        ended_ranks += sum(process.running() for process in ranks)
        if how != "now" and agent.running():
            write_text(attempt.folder / ("stop" if how == "polite" else "abort"), "")
            seconds = float(attempt.plan.get("grace_s", 30)) if how == "polite" else 5.0
            # The lease must not run out while a checkpoint is saved.
            end = time.monotonic() + seconds + 15
            while agent.running() and time.monotonic() < end:
                write_text(attempt.folder / "lease", f"{STOPPING} {time.monotonic_ns()}")
                wait_for_end([agent], 1.0)
        _end_now(attempt)
    return {"ended": ended_ranks, "attempts": [attempt.number for attempt in chosen]}


def list_runs(root: Path, name: str | None = None) -> dict[str, Any]:
    """What this node knows of its runs: the newest attempt of each, and what of it runs."""
    rows: dict[str, Any] = {}
    for folder in sorted((root / "runs").glob("*/.cluster")):
        run_name = folder.parent.name
        if (name is None or name == run_name) and (found := attempts(root, run_name)):
            newest = found[-1]
            rows[run_name] = {
                "attempt": newest.number,
                "id": newest.plan.get("id", ""),
                "nodes": newest.plan.get("nodes", []),
                "agent": newest.agent.running(),
                "ranks": [
                    {"rank": rank, "status": status, "running": process.running()}
                    for rank, process, status in newest.ranks
                ],
                "reason": newest.state.get("reason", ""),
                "run_folder": newest.plan.get("run_folder", ""),
            }
    return {"runs": rows}


def stopped_attempt(root: Path, run: str) -> int:
    """Number of the newest attempt of a run on this node where the user asked to stop it; else 0."""
    found = attempts(root, run)
    return found[-1].number if found and (found[-1].folder / STOPPED).exists() else 0


def newest_checkpoint(folder: Path) -> str:
    """Name of the newest checkpoint that is there with its manifest; empty when there is none."""
    found = [path.parent.name for path in (folder / "checkpoints").glob("step_[0-9]*/manifest.json")]
    return max(found, default="")


def _last_numbers(events: Path) -> dict[str, Any]:
    """The newest line of numbers of a run's record, read from its last few kilobytes."""
    with suppress(OSError), events.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and row.get("kind") == "train":
                    found = {key: row.get(key) for key in ("step", "loss", "images_per_second", "steps_per_second")}
                    return found | {key: value for key, value in row.items() if _OF_RANK.fullmatch(key)}
    return {}


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log, read from its last megabyte."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 20)))
        return file.read().decode("utf-8", "replace").splitlines()[-count:]
    return []


# --------------------------------------------------------------------------------------------------------------- helpers


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _tail(path: Path) -> str:
    lines = _text(path).strip().splitlines()
    return lines[-1][:300] if lines else ""


def _row(process: ProcessId) -> dict[str, Any]:
    return {"pid": process.pid, "started": process.started}


def _process(row: Mapping[str, Any] | None) -> ProcessId:
    return ProcessId(int(row["pid"]), str(row["started"])) if row else ProcessId(0, "")


def main() -> None:
    """Entry point on a node; a question as JSON on stdin, the answer as JSON on stdout."""
    root = Path(sys.argv[0]).resolve().parent.parent
    verb = sys.argv[1]
    if verb == "run":
        run(root, sys.argv[2], int(sys.argv[3]))
        return
    text = sys.stdin.read()
    question: dict[str, Any] = json.loads(text) if text.strip() else {}
    if verb == "start":
        answer = start(root, question)
    elif verb == "poll":
        answer = poll(root, question)
    elif verb == "stop":
        answer = stop(root, question)
    elif verb == "runs":
        answer = list_runs(root, question.get("run"))
    elif verb == "tail":
        attempt = Attempt(root, question["run"], int(question["attempt"]))
        tails = {rank: last_lines(attempt.log(rank), int(question["lines"])) for rank in attempt.plan.get("ranks", [])}
        answer = {"ranks": tails}
    elif verb == "facts":
        answer = node_facts.facts(root)
        address = node_facts.own_address(question["master"]) if question.get("master") else None
        interface = node_facts.interface_of(address) if address else None
        answer |= {"address": address, "interface": interface, "speed_mbit": node_facts.speed_mbit(interface)}
    elif verb == "checkpoint":
        stopped = stopped_attempt(root, question["run"]) if "run" in question else 0
        answer = {"checkpoint": newest_checkpoint(root / question["run_folder"]), "stopped": stopped}
    elif verb == "hash":
        folder = root / question["folder"]
        manifest = trees.cached_manifest(folder, root / "sums" / f"{folder.name}.json") if folder.is_dir() else None
        answer = {"manifest": json.loads(trees.to_json(manifest))} if manifest else {"missing": str(folder)}
    elif verb == "check":
        answer = {"damage": trees.damage(Path(sys.argv[0]).resolve().parent)}
    elif verb == "listen":
        answer = node_facts.listen(question["ports"], question["seconds"], question["callers"])
    elif verb == "connect":
        answer = node_facts.connect([(host, port) for host, port in question["targets"]])
    else:
        sys.exit(f"unknown command {verb}")
    print(json.dumps(answer))
