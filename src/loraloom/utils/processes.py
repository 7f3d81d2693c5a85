"""Processes of this machine: the same one or another with its number, a start that outlives its parent, an end of a group.

A process number is used again by the system, after a reboot too. A number with the time of its start is not.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use, at most as many as a pool of processes takes on Windows (61)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 61) if os.name == "nt" else cores


def share_of_threads(count: int) -> dict[str, str]:
    """Variables by which `count` processes that compute on one machine share its cores; each would take all of them."""
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // count))} if count > 1 else {}


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for ever.

    Attributes:
        pid: Its number.
        started: When it started, in the system's own words, with the boot that it belongs to.
    """

    pid: int
    started: str

    def running(self) -> bool:
        """Whether exactly this process runs now. A process that ended and was not collected does not run."""
        return bool(self.started) and start_of(self.pid) == self.started


def this_process() -> ProcessId:
    """The caller."""
    return identify(os.getpid())


def identify(pid: int) -> ProcessId:
    """The process that has this number now; `started` is empty when there is none."""
    return ProcessId(pid, start_of(pid))


def start_of(pid: int) -> str:
    """When the process of this number started; empty when none runs."""
    if pid <= 0:
        return ""
    if os.name == "nt":
        return _start_on_windows(pid)
    if sys.platform == "linux":
        try:
            # The name in parentheses may hold blanks and parentheses; what follows the last one is state, then numbers.
            fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    ).stdout.split(maxsplit=1)
    return "" if len(shown) < 2 or shown[0].startswith("Z") else shown[1].strip()


def is_stopped(pid: int) -> bool:
    """Whether the process was suspended (SIGSTOP, Ctrl-Z); False where the system does not say."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] in "Tt"
    return False


def kill_group(process: ProcessId) -> None:
    """End a process and everything that it started in its group, at once. Nothing happens when it is another process."""
    if os.name == "nt":
        if process.running():
            subprocess.run(["taskkill", "/PID", str(process.pid), "/T", "/F"], capture_output=True, check=False)
        return
    # The leader may be gone and its children not: a group keeps its number until the last of them ends.
    leader = start_of(process.pid)
    earlier_boot = sys.platform == "linux" and process.started.partition(":")[0] != _boot()
    if (leader and leader != process.started) or earlier_boot or process.pid <= 1:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def signal_process(process: ProcessId, number: int) -> None:
    """Send a signal to a process that runs; on Windows only its end can be sent, and nothing is."""
    if os.name != "nt" and process.running():
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_for_end(processes: Sequence[ProcessId], seconds: float) -> bool:
    """Whether all of them ended within this time."""
    end = time.monotonic() + seconds
    while any(process.running() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def start_detached(argv: Sequence[str], *, folder: Path, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Start a program that outlives this process, its terminal and its connection; output goes to a file.

    On Windows a process of an SSH or remoting session ends with the session's job object. One that the system's management
    service creates does not, so that service is asked. It hands over no environment: `env` has no effect there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        script = (
            "$made = Invoke-CimMethod -ClassName Win32_Process -MethodName Create"
            " -Arguments @{CommandLine = $env:LORALOOM_LINE; CurrentDirectory = $env:LORALOOM_FOLDER};"
            " exit [int]$made.ReturnValue"
        )
        variables = {"LORALOOM_LINE": subprocess.list2cmdline(argv), "LORALOOM_FOLDER": str(folder)}
        subprocess.run(
            ["powershell", "-NoProfile", "-NonInteractive", "-Command", script],
            env={**os.environ, **variables},
            check=True,
            capture_output=True,
        )
        return
    with log.open("ab") as file:
        subprocess.Popen(
            list(argv),
            cwd=folder,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: the system kills the child when the process that started it ends. None where it cannot be asked."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        prctl = library.prctl
    except (OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG

    return ask


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    return ""


def _start_on_windows(pid: int) -> str:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # pyright: ignore[reportAttributeAccessIssue]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return ""
    handle = ctypes.c_void_p(handle)
    code, times = ctypes.c_ulong(), [ctypes.c_ulonglong() for _ in range(4)]
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    timed = kernel.GetProcessTimes(handle, *(ctypes.byref(value) for value in times))
    kernel.CloseHandle(handle)
    running = bool(known) and code.value == 259  # STILL_ACTIVE
    return str(times[0].value) if running and timed else ""
