"""The parts of a recipe: each is done once, continued after an interruption, and a broken one does not stop the others.

In: a name, a key of everything that the part depends on, and the work. Out: `parts.json`, which says of each part whether it
is done or failed, why, and how long it took.
"""

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from loraloom.utils.atomic_files import write_json
from loraloom.utils.errors import UserError
from loraloom.utils.progress import duration
from loraloom.utils.untrusted import is_there, parse_record, read_json_object

STATE_FILE = "parts.json"
T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of one part.

    Attributes:
        status: Whether it is done.
        key: Sum over what it depended on when it was done.
        seconds: Wall time of the work.
        reason: Why it failed; empty where it is done.
        made: What it returned: JSON values.
    """

    status: Literal["done", "failed"]
    key: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    reason: str = ""
    made: dict[str, Any] | None = None


def key_of(*values: Any) -> str:
    """A sum over JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Parts:
    """The parts in a folder, kept in `parts.json` after each.

    Args:
        folder: Folder of the recipe's results.
        say: Takes lines for the user.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self._say = folder, say
        self.known: dict[str, Part] = {}
        self.asked: list[str] = []
        """Names of the parts of this call, in order."""
        self.failed: dict[str, str] = {}
        """Reason of each part that failed in this call."""
        if is_there(folder / STATE_FILE):
            rows = read_json_object(folder / STATE_FILE, STATE_FILE, unique_keys=True)
            for name, row in rows.items():
                self.known[name] = parse_record(
                    Part,
                    json.dumps(row),
                    f"{STATE_FILE}, {name}",
                    fix=f"delete {STATE_FILE}: results stay and are checked again",
                )

    def do(
        self, name: str, key: str, work: Callable[[], Mapping[str, Any] | None], outputs: Sequence[Path] = ()
    ) -> Mapping[str, Any] | None:
        """Do a part unless it is done; returns what it returned, or None where it failed.

        Args:
            name: Such as `train anime`.
            key: See `key_of`. A part with another key than before is done again.
            work: Returns JSON values.
            outputs: Files without which it is not done.
        """
        self.asked.append(name)
        before = self.known.get(name)
        if before and before.status == "done" and before.key == key and all(map(is_there, outputs)):
            self._say(f"{name}: done before, in {duration(before.seconds)}")
            return before.made or {}
        self._say(f"{name}: begins")
        began = time.monotonic()
        try:
            made = dict(work() or {})
        except (UserError, OSError, RuntimeError, MemoryError) as error:  # RuntimeError: torch, out of memory
            self._fail(name, key, time.monotonic() - began, error)
            return None
        seconds = time.monotonic() - began
        self._keep(name, Part("done", key, seconds, made=made))
        self._say(f"{name}: done in {duration(seconds)}")
        return made

    def _fail(self, name: str, key: str, seconds: float, error: BaseException) -> None:
        reason = str(error).strip() or type(error).__name__
        if not isinstance(error, UserError):
            place = self.folder / "errors" / f"{name.replace(' ', '_')}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            reason = f"{type(error).__name__}: {reason.splitlines()[0]}\n  the whole text is in {place}"
        self.failed[name] = reason
        self._keep(name, Part("failed", key, seconds, reason=reason))
        self._say(f"{name}: FAILED: {reason}")

    def skip(self, name: str, reason: str) -> None:
        """Record that a part cannot be done because an earlier one failed."""
        self.asked.append(name)
        self.failed[name] = reason
        self._keep(name, Part("failed", "", 0.0, reason=reason))
        self._say(f"{name}: left out: {reason}")

    def _keep(self, name: str, part: Part) -> None:
        self.known[name] = part
        write_json(self.folder / STATE_FILE, {name: asdict(part) for name, part in self.known.items()})
