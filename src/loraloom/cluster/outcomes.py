"""How an attempt, or a node's part of it, ended: read from the answers of node agents, and said in messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loraloom.utils.ranks import LOST

Kind = Literal["finished", "stopped", "failed", "lost", "stalled", "apart", "back", "taken"]

USER_MISTAKE = 2
"""Exit status of `loraloom train` for what the user can repair: another attempt would end the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        kind: `finished`, `stopped` (asked to), or the fault.
        node: Name of the host that showed it; empty where none did.
        text: What happened.
        status: Exit status of the rank that ended, if one did.
        rank: That rank.
    """

    kind: Kind
    node: str = ""
    text: str = ""
    status: int | None = None
    rank: int | None = None


def how_to_end(kind: Kind) -> str:
    """How to end an attempt: with a checkpoint where its processes are well."""
    return "polite" if kind in {"stopped", "back"} else "now"


def end_of(name: str, answer: dict[str, Any]) -> Outcome | None:
    """What an answer says of the end of a node's part; None while it runs."""
    if answer["agent"] == "running":
        return None
    if answer["agent"] == "absent":
        return Outcome(kind="failed", node=name, text="does not know the attempt")
    if answer["agent"] == "dead":
        return Outcome(kind="failed", node=name, text="the node agent was killed")
    if any(answer["logs"].values()):
        return None  # read the last lines first
    reason = str(answer["reason"])
    if reason == "finished":
        return Outcome(kind="finished", node=name)
    if reason == "stopped":
        return Outcome(kind="stopped", node=name, text="was stopped there")
    row = next((row for row in answer["ranks"] if row["status"]), None)
    return Outcome(
        kind="failed",
        node=name,
        text=reason,
        status=row["status"] if row else None,
        rank=row["rank"] if row else None,
    )


def cause_of(faults: Sequence[Outcome]) -> Outcome:
    """The fault that says most: a user's mistake, then what ended a rank, then what its neighbours say of it."""
    return min(faults, key=lambda fault: (fault.status != USER_MISTAKE, fault.status == LOST, fault.kind != "failed"))


def where(outcome: Outcome) -> str:
    """The node of an outcome, for messages."""
    return f"{outcome.node}: " if outcome.node else ""


def last_error(lines: Sequence[str]) -> str:
    """The lines of a log that say what went wrong: from the last `error:` on, or the last one."""
    begins = [index for index, line in enumerate(lines) if line.startswith("error:")]
    chosen = lines[begins[-1] :][:3] if begins else [line for line in lines if line.strip()][-1:]
    return " ".join(line.strip() for line in chosen)[:400]
