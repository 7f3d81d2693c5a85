"""Start the ranks of one machine, pass their lines on, and end all of them when one dies.

In: a command and a number of ranks. Out: each rank as a process with the variables that `torch.distributed` reads
(`env://`), their lines on the terminal and in one file with `[rank]` before each, and how they ended.

Ctrl-C and SIGTERM reach every rank once; the ranks finish their step and save. When one rank ends with a fault, the others
have `GRACE_S` seconds to end by themselves and are then killed. When this process dies, its ranks read the end of their
input (`end_with_supervisor`) and stop as if asked to.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from loraloom.utils.processes import share_of_threads

SUPERVISED = "LORALOOM_SUPERVISED"
"""Environment variable of a rank whose supervisor speaks about lost ranks."""

BACKEND = "LORALOOM_BACKEND"
"""Environment variable that names the backend of the process group, `nccl` or `gloo`."""

LOST = 3
"""Exit status of a rank that ended because another one was lost."""

GRACE_S = 5.0
"""Seconds that ranks have to end by themselves after one of them ended with a fault."""

_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the ranks ended.

    Attributes:
        codes: Exit status of each rank; below 0 the number of the signal that killed it.
        first: Rank that ended with a fault before the others did, or None.
        pid: Its process id; 0 without a fault.
        asked: Whether a signal asked this process to stop.
    """

    codes: tuple[int, ...]
    first: int | None
    pid: int = 0
    asked: bool = False

    def reason(self) -> str:
        """How the first rank ended, a clause about it."""
        assert self.first is not None
        code = self.codes[self.first]
        if code >= 0:
            return f"ended with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + (" (often: the system ran out of memory)" if name == "SIGKILL" else "")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environment(rank: int, count: int, port: int, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of one of `count` ranks of this machine; what `outer` sets for threads and networks is kept."""
    usual = share_of_threads(count)
    if Path("/sys/class/net/lo").exists():
        usual["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo looks the host's name up, which may lead nowhere
    if os.name == "nt":
        usual["USE_LIBUV"] = "0"  # Windows wheels of torch are built without it
    return {
        **usual,
        **outer,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        SUPERVISED: "1",
    }


def run_ranks(command: Sequence[str], count: int, log_file: Path | None) -> Ended:
    """Run a command as `count` ranks until all have ended.

    Lines of rank 0 appear as they are, those of others with `[rank] ` before them. An error that all ranks report appears
    once, that of rank 0. `log_file` gets the lines of all ranks once its run folder is there. `{rank}` in an argument is the
    rank's number.
    """
    port, lines = free_port(), _Lines(log_file)
    session: dict[str, Any] = {} if os.name == "nt" else {"start_new_session": True}
    processes: list[subprocess.Popen[Any]] = []
    readers: list[threading.Thread] = []
    first: int | None = None
    since = 0.0
    with _forwarding(processes) as asked:
        try:
            for rank in range(count):
                own_terminal = rank == 0 and sys.stderr.isatty()  # a bar needs it
                process = subprocess.Popen(
                    [argument.replace("{rank}", str(rank)) for argument in command],
                    env=rank_environment(rank, count, port, os.environ),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None if own_terminal else subprocess.PIPE,
                    **session,
                )
                processes.append(process)
                for stream, error in ((process.stdout, False), (process.stderr, True)):
                    if stream:
                        readers.append(threading.Thread(target=lines.read, args=(rank, stream, error), daemon=True))
                        readers[-1].start()
            while any(process.poll() is None for process in processes):
                if first is None:
                    first = _first_fault(processes)
                    since = time.monotonic()
                elif time.monotonic() - since > GRACE_S:
                    _kill(processes)
                time.sleep(_POLL_S)
            first = _first_fault(processes) if first is None else first
        finally:
            _kill(processes)
            for reader in readers:
                reader.join(GRACE_S)
    codes = tuple(process.wait() for process in processes)
    lines.close(show_held=first not in {None, 0} and codes[0] != 2, rank=first)
    return Ended(codes=codes, first=first, pid=0 if first is None else processes[first].pid, asked=bool(asked))


def supervised_rank() -> tuple[int, int] | None:
    """Number of this rank and number of ranks; None in a process without a supervisor."""
    if os.environ.get(SUPERVISED) != "1":
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def end_with_supervisor() -> None:
    """In a supervised rank: ask this process to stop, as SIGTERM does, when its supervisor is gone."""
    if os.environ.get(SUPERVISED) != "1":
        return

    def wait() -> None:
        try:
            while os.read(0, 1):
                pass
        except OSError:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)  # nobody reads the pipes any more
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def _first_fault(processes: Sequence["subprocess.Popen[Any]"]) -> int | None:
    """A rank that ended with a fault of its own, or else one that lost another; None while no rank has a fault."""
    codes = [process.poll() for process in processes]
    own = [rank for rank, code in enumerate(codes) if code not in {None, 0, LOST}]
    lost = [rank for rank, code in enumerate(codes) if code == LOST]
    # A lost rank may be seen before the one that it lost.
    if own:
        return own[0]
    return lost[0] if lost and all(code is not None for code in codes) else None


def _kill(processes: Sequence["subprocess.Popen[Any]"]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()


@contextmanager
def _forwarding(processes: Sequence["subprocess.Popen[Any]"]) -> Iterator[list[int]]:
    """Pass signals that ask to stop on to all ranks; yields the numbers of those that came."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def forward(number: int, frame: object) -> None:
        asked.append(number)
        for process in processes:
            if process.poll() is None and os.name != "nt":  # Windows: the console has asked them already
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Lines:
    """The lines of all ranks, on the terminal and in one file.

    Attributes:
        path: The file, or None.
        held: Lines of errors of ranks other than 0, by rank.
        waiting: Lines that came before the run folder was there.
    """

    path: Path | None
    held: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    waiting: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, rank: int, stream: IO[bytes], error: bool) -> None:
        """Pass on the lines of a stream until it ends."""
        terminal = sys.stderr if error else sys.stdout
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            with self._lock:
                self._keep(f"[{rank}] {line}\n")
                if rank and error and (line.startswith("error: ") or rank in self.held):
                    self.held.setdefault(rank, []).append(line)
                    continue
                with suppress(OSError):  # `| head` has ended: the ranks work on, and their pipes must not fill up
                    terminal.write(f"{line}\n" if rank == 0 else f"[{rank}] {line}\n")
                    terminal.flush()

    def close(self, *, show_held: bool, rank: int | None) -> None:
        """Show the error that `rank` reported, where rank 0 has not reported it."""
        with self._lock:
            if show_held and rank is not None:
                for line in self.held.get(rank, []):
                    sys.stderr.write(f"[{rank}] {line}\n")
            self._keep("")

    def _keep(self, line: str) -> None:
        if self.path is None:
            return
        self.waiting.append(line)
        run_folder = self.path.parent.parent
        if not run_folder.is_dir():
            return
        try:
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self.waiting)
        except OSError:  # a full disk: the run itself reports that
            return
        self.waiting.clear()
