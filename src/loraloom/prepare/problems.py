"""Tell which files of a source are not used, and why: all of them in `problems.jsonl`, the first ones on the terminal.

In: rows of files and reasons. Out: the file, and lines for the user.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from loraloom.prepare.leftovers import Leftovers
from loraloom.prepare.report import Problem
from loraloom.utils.atomic_files import write_text
from loraloom.utils.counted import counted
from loraloom.utils.safe_paths import short_name

PROBLEMS_FILE = "problems.jsonl"
_SHOWN_PROBLEMS = 20
_SAME_REASON = 3
"""More files with one reason are one line."""


def write_problems(out: Path, problems: Sequence[Problem], notes: Sequence[Problem]) -> None:
    """One row for each file that is not used, then for each that is used and has something to be said about it."""
    rows = [{"file": row.file, "reason": row.reason, "used": False} for row in problems]
    rows += [{"file": row.file, "reason": row.reason, "used": True} for row in notes]
    write_text(out / PROBLEMS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def tell_problems(out: Path, problems: Sequence[Problem], leftovers: Leftovers, console: Callable[[str], None]) -> None:
    """The first problems to the console; many of one reason, and files not read, in one line."""
    by_reason: dict[str, list[Problem]] = {}
    for problem in sorted(set(problems) - set(leftovers.problems)):
        by_reason.setdefault(problem.reason, []).append(problem)
    alone = sorted(problem for group in by_reason.values() if len(group) <= _SAME_REASON for problem in group)
    for reason, group in by_reason.items():
        if len(group) > _SAME_REASON:
            console(f"  not used: {counted(len(group), 'file')}, {short_name(group[0].file)} first: {reason}")
    for problem in alone[:_SHOWN_PROBLEMS]:
        console(f"  not used: {short_name(problem.file)}: {problem.reason}")
    if len(alone) > _SHOWN_PROBLEMS:
        console(f"  and {len(alone) - _SHOWN_PROBLEMS:,} more in {out / PROBLEMS_FILE}")
