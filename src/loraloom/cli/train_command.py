"""`loraloom train` on a terminal: progress bar, log lines, results and the next command."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.cli.processes import without
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.output_paths import COMMAND, check_folder
from loraloom.utils.progress import bars, duration
from loraloom.utils.ranks import end_with_supervisor, run_ranks, supervised_rank
from loraloom.utils.reporting import reporting
from loraloom.utils.untrusted import is_file, read_json_object

if TYPE_CHECKING:
    from loraloom.config.run import RunConfig


def train_on_terminal(settings: "RunConfig", *, cpu: bool = False) -> None:
    """Train; show a progress bar and log lines; print the results and the next command."""
    from loraloom.train.run import train

    max_steps = settings.train.max_steps

    def report(done: int, numbers: dict[str, float]) -> None:
        left = (max_steps - done) / max(numbers["steps_per_second"], 1e-9)
        held_out = f"validation {numbers['validation_loss']:.4f}  " if "validation_loss" in numbers else ""
        say(
            f"step {done}/{max_steps}  loss {numbers['loss']:.4f}  {held_out}lr {numbers['learning_rate']:.2e}  "
            f"norm {numbers['grad_norm']:.3f}  {numbers['images_per_second']:.1f} images/s  "
            f"{numbers['peak_memory_mib'] / 1024:.2f} GiB  {gpu_words(numbers)}{duration(left)} left"
        )
        if "slowest_rank" in numbers:
            say(rank_line(numbers))

    def say(text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            if not supervised_rank():
                raise  # a supervisor that was killed: this rank is about to stop and to save

    end_with_supervisor()
    with bars() as bar, reporting(say=say, bar=bar, numbers=report):
        result = train(settings, say=None, cpu=cpu)
    if result.is_main and result.adapter is not None:
        say(f"done in {duration(result.finished.seconds)}: {result.adapter}")
        if settings.samples.enabled:
            say(f"samples: {result.folder / 'samples' / 'sheet.png'}")
        say(f"for other programs: {result.folder / 'exports'}")
        say(f'next: {COMMAND} generate --adapter {result.folder} "a prompt"')


_MOST_RANKS = 16


def gpu_words(numbers: dict[str, float]) -> str:
    """Utilization and power of the GPU, where they are known."""
    used, power = numbers.get("gpu_utilization_percent"), numbers.get("gpu_power_w")
    return (f"GPU {used:.0f} %  " if used is not None else "") + (f"{power:.0f} W  " if power is not None else "")


def rank_line(numbers: dict[str, float]) -> str:
    """How fast each rank computes, and which one the others wait for."""
    speeds: list[float] = []
    while (key := f"rank_{len(speeds)}_images_per_second") in numbers:
        speeds.append(numbers[key])
    shown = " ".join(f"{speed:.1f}" for speed in speeds[:_MOST_RANKS]) + (" …" if len(speeds) > _MOST_RANKS else "")
    rank = int(numbers["slowest_rank"])
    return f"  ranks: {shown} images/s; slowest: rank {rank}, {numbers['slowest_busy']:.0%} busy"


def train_on_ranks(settings: "RunConfig", count: int) -> int:
    """Run this command again as `count` ranks; returns the exit status.

    Raises:
        UserError: The run folder cannot be written.
    """
    folder = Path(settings.train.output)
    check_folder(folder)
    log_file = folder / "logs" / "ranks.log"
    ended = run_ranks([sys.executable, "-m", "loraloom", *without(sys.argv[1:], "--num-processes")], count, log_file)
    if ended.first is None:
        return 0
    code = ended.codes[ended.first]
    if ended.asked:
        return 130
    if ended.codes[0] == 2:
        return 2  # rank 0 has said what is wrong
    lines = [f"error: rank {ended.first} of {count} (process {ended.pid}) {ended.reason()}; all ranks were ended"]
    newest = newest_whole(folder / "checkpoints")
    if newest:
        lines.append(f"  the checkpoint {newest} is whole; the same command resumes from it")
    else:
        lines.append("  there is no checkpoint yet; the same command begins again")
    if is_file(log_file):
        lines.append(f"  lines of all ranks: {log_file}")
    sys.stderr.write("\n".join(lines) + "\n")
    return 2 if code == 2 else 1


def newest_whole(checkpoints: Path) -> str | None:
    """Name of the newest checkpoint whose files have their sums; without torch, because it is said right after a fault."""
    names = {int(m[2]): entry.name for entry in _entries(checkpoints) if (m := _CHECKPOINT.fullmatch(entry.name))}
    for _, name in sorted(names.items(), reverse=True):
        try:
            sums = read_json_object(checkpoints / name / "manifest.json", "manifest.json").get("sha256")
            if isinstance(sums, dict) and all(sha256_file(checkpoints / name / f) == s for f, s in sums.items()):
                return name
        except (UserError, OSError):
            continue
    return None


_CHECKPOINT = re.compile(r"(step|latest)_(\d{7,12})")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
