"""Cases in processes of their own, with limits of CPU time, memory and waiting.

Many cases share a process, because a fork of a process that has imported torch takes longer than most cases do. A fault of a
case that is not the first of its process is looked at again in a process of its own.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .kinds import Case, Odd

CPU_S = 3
MEMORY_BYTES = 1 << 30
HANG_S = 120.0
"""Of wall time, which a busy machine stretches; CPU time has its own limit."""
AT_ONCE = 40


def faults_of(cases: Iterable[Case | Odd], folder: Path, warm: Callable[[], object] = lambda: None) -> list[str]:
    """What went wrong, a line a case. `warm` runs first in each process: what may not be begun before a fork."""
    waiting = [case for case in cases if not case.skipped]
    folder.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    done = 0
    while done < len(waiting):
        count, fault = _run(waiting[done : done + AT_ONCE], folder / f"{done:05d}", warm)
        if fault and count > 1:  # others ran before it in that process
            _, fault = _run([waiting[done + count - 1]], folder / f"{done:05d} alone", warm)
        done += count
        if fault:
            found.append(f"{waiting[done - 1]}: {fault}")
    return found


def _run(cases: Sequence[Case | Odd], folder: Path, warm: Callable[[], object]) -> tuple[int, str]:
    """Run cases in one process up to the first fault: how many ran, and the fault; empty where there is none."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(cases, folder, writer, warm)
        os._exit(0)
    os.close(writer)
    said = b""
    hung = False
    while True:
        ready, _, _ = select.select([reader], [], [], HANG_S)
        if not ready:
            hung = True
            os.kill(child, signal.SIGKILL)
            break
        data = os.read(reader, 1 << 16)
        if not data:
            break
        said += data
    _, status = os.waitpid(child, 0)
    os.close(reader)
    lines = said.decode("utf-8", "replace").splitlines()
    if lines and lines[-1]:
        return len(lines), lines[-1]
    if hung:
        return len(lines) + 1, f"hung for {HANG_S:.0f} s"
    if os.WIFSIGNALED(status):
        return len(lines) + 1, f"ended by signal {os.WTERMSIG(status)}"
    return len(lines), ""


def _work(cases: Sequence[Case | Odd], folder: Path, writer: int, warm: Callable[[], object]) -> None:
    """One line a case into the pipe: empty, or the fault, which is the last."""
    import resource

    warm()
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, -1))
    for number, case in enumerate(cases):
        began = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S + 1 + int(began), -1))
        fault = ""
        try:
            case.run(folder.with_name(f"{folder.name} {number}"))
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error)[:200].split())
            fault = f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
        took = time.process_time() - began
        if not fault and took > CPU_S:
            fault = f"took {took:.1f} s"
        os.write(writer, (fault + "\n").encode("utf-8", "replace"))
        if fault:
            return
