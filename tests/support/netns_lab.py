"""A laboratory of hosts on one Linux machine: network namespaces with an SSH server each, a home folder and a host name of
their own, joined by a bridge. Needs root. Links can be cut and slowed, ports closed, clocks set wrong.

    with laboratory(tmp_path, 3) as lab:
        lab.run(1, ["python", "-m", "loraloom", "cluster", "launch", ...])
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("ip", "unshare", "mount", "ssh-keygen")


def missing() -> str:
    """Why no laboratory can be made here; empty: it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if _sshd() is None:
        lacking.append("sshd (openssh-server)")
    if lacking:
        return f"needs {', '.join(lacking)}"
    name = f"ll{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        return "network namespaces are not allowed here"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class Laboratory:
    """Hosts 1 to n; host i has the address 10.77.0.i, its home is `folder/home-i`.

    Attributes:
        folder: Keys, homes, logs.
        count: Number of hosts.
        tag: Begin of the namespaces' names.
        processes: What was started here.
    """

    folder: Path
    count: int
    tag: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list["subprocess.Popen[bytes]"])

    def space(self, host: int) -> str:
        return f"{self.tag}{host}"

    def address(self, host: int) -> str:
        return f"10.77.0.{host}"

    def home(self, host: int) -> Path:
        return self.folder / f"home-{host}"

    @property
    def key(self) -> Path:
        return self.folder / "keys" / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "keys" / "known_hosts"

    def inside(self, host: int, argv: Sequence[str]) -> list[str]:
        """The command that runs another one on a host: its network, home, host name and accounts."""
        prepare = self.folder / "prepare.sh"
        return ["ip", "netns", "exec", self.space(host), "unshare", "-m", "-u", "sh", str(prepare), str(host), *argv]

    def start(self, host: int, argv: Sequence[str], log: Path, **env: str) -> "subprocess.Popen[bytes]":
        """Start a command on a host; output goes to a file."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.inside(host, argv),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **env},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(
        self, host: int, argv: Sequence[str], timeout: float = 240, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""
        return subprocess.run(
            self.inside(host, argv),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
        )

    def cut(self, host: int) -> None:
        """Pull the cable."""
        _ip("-n", self.space(host), "link", "set", "eth0", "down")

    def join(self, host: int) -> None:
        """Plug it in again."""
        _ip("-n", self.space(host), "link", "set", "eth0", "up")

    def power_off(self, host: int) -> None:
        """The machine is gone: first its cable, so that no packet tells anybody, then all that runs on it."""
        self.cut(host)
        for pid in self._pids(host):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def ports(self, host: int) -> set[int]:
        """TCP ports on which something listens there."""
        line = ["ip", "netns", "exec", self.space(host), "cat", "/proc/net/tcp", "/proc/net/tcp6"]
        rows = [
            row.split() for row in subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
        ]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}

    def firewall(self, host: int, *rules: str) -> None:
        """Drop what comes in except what the rules of nftables accept; needs `nft`."""
        hook = "type filter hook input priority 0; policy drop;"
        lines = [hook, "ct state established,related accept", "iifname lo accept", *rules]
        table = "table inet lab {\nchain input {\n" + "\n".join(lines) + "\n}\n}\n"
        subprocess.run(["ip", "netns", "exec", self.space(host), "nft", "-f", "-"], input=table, text=True, check=True)

    def slow(self, host: int, *, mbit: int) -> None:
        """Limit what a host sends."""
        subprocess.run(
            [
                *("tc", "-n", self.space(host), "qdisc", "replace", "dev", "eth0", "root", "tbf"),
                *("rate", f"{mbit}mbit", "burst", f"{mbit}k", "latency", "100ms"),
            ],
            check=True,
        )

    def delay(self, host: int, *, ms: float) -> None:
        """Delay what a host sends and receives by half of `ms` each: to the others a round trip takes `ms` longer."""
        switch, bridge = f"{self.tag}s", f"br{host}"
        outer = f"{self.space(host)}w"[-15:]
        _ip("-n", switch, "link", "add", bridge, "type", "bridge")
        _ip("-n", switch, "link", "set", bridge, "up")
        _ip("-n", switch, "link", "set", outer, "master", bridge)
        relay = str(Path(__file__).with_name("delay_link.py"))
        log = self.folder / f"delay-{host}.log"
        with log.open("wb") as file:
            line = ["ip", "netns", "exec", switch, sys.executable, relay, "br0", bridge, str(ms / 2000)]
            self.processes.append(subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True))
        for _ in range(100):
            if "ready" in log.read_text():
                return
            time.sleep(0.1)
        raise RuntimeError(log.read_text())

    def processes_of(self, host: int) -> list[int]:
        """Numbers of all processes of a host but its SSH server's."""
        lines = {pid: _command(pid) for pid in self._pids(host)}
        return [pid for pid, line in lines.items() if line and "sshd" not in line]

    def _pids(self, host: int) -> list[int]:
        line = ["ip", "netns", "pids", self.space(host)]
        return [int(pid) for pid in subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()]

    def training(self, host: int) -> list[int]:
        """Numbers of the ranks on a host."""
        return [pid for pid in self.processes_of(host) if "loraloom\0train" in _command(pid)]

    def agents(self, host: int) -> list[int]:
        """Numbers of the node agents on a host."""
        return [pid for pid in self.processes_of(host) if "node.py\0run\0" in _command(pid)]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def laboratory(folder: Path, count: int) -> Iterator[Laboratory]:
    """Hosts with SSH servers, gone again after the block with everything that runs on them."""
    lab = Laboratory(folder, count, f"ll{os.getpid() % 100000}x")
    switch = f"{lab.tag}s"
    try:
        _keys(lab)
        _accounts(lab)
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host in range(1, count + 1):
            _host(lab, host, switch)
        yield lab
    finally:
        for process in lab.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for host in [*map(str, range(1, count + 1)), "s"]:
            name = f"{lab.tag}{host}"
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in found.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        for process in lab.processes:
            process.wait(10)


def _keys(lab: Laboratory) -> None:
    keys = lab.folder / "keys"
    keys.mkdir()
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    shutil.copy(keys / "id.pub", keys / "authorized_keys")
    public = (keys / "host.pub").read_text().strip()
    lab.known_hosts.write_text("".join(f"{lab.address(host)} {public}\n" for host in range(1, lab.count + 1)))


def _accounts(lab: Laboratory) -> None:
    """Each host has a list of accounts: root's home is its own; sshd's account is there."""
    lines = Path("/etc/passwd").read_text().splitlines()
    if not any(line.startswith("sshd:") for line in lines):
        lines.append("sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin")
    for host in range(1, lab.count + 1):
        rows = [line.split(":") for line in lines]
        own = [[*row[:5], str(lab.home(host)), row[6]] if row[2] == "0" else row for row in rows if len(row) == 7]
        (lab.folder / f"passwd-{host}").write_text("".join(":".join(row) + "\n" for row in own))
    (lab.folder / "prepare.sh").write_text(
        f"""set -e
number=$1
shift
export HOME={lab.folder}/home-$number
mount --bind {lab.folder}/passwd-$number /etc/passwd
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
hostname host-$number
exec "$@"
"""
    )


def _host(lab: Laboratory, host: int, switch: str) -> None:
    space = lab.space(host)
    lab.home(host).mkdir()
    inner, outer = f"{space}v"[-15:], f"{space}w"[-15:]
    _ip("netns", "add", space)
    _ip("-n", space, "link", "set", "lo", "up")
    _ip("-n", space, "link", "add", inner, "type", "veth", "peer", "name", outer)
    _ip("-n", space, "link", "set", outer, "netns", switch)
    _ip("-n", space, "link", "set", inner, "name", "eth0")
    _ip("-n", space, "addr", "add", f"{lab.address(host)}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", switch, "link", "set", outer, "master", "br0")
    _ip("-n", switch, "link", "set", outer, "up")
    keys = lab.folder / "keys"
    config = lab.folder / f"sshd-{host}.conf"
    config.write_text(
        f"""Port 22
ListenAddress {lab.address(host)}
HostKey {keys}/host
AuthorizedKeysFile {keys}/authorized_keys
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
"""
    )
    sshd = _sshd()
    assert sshd is not None
    lab.start(host, [sshd, "-D", "-e", "-f", str(config)], lab.folder / f"sshd-{host}.log")
    for _ in range(100):
        ready = subprocess.run(
            ["ip", "netns", "exec", space, "bash", "-c", f"exec 3<>/dev/tcp/{lab.address(host)}/22"],
            capture_output=True,
            check=False,
        )
        if ready.returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError((lab.folder / f"sshd-{host}.log").read_text())
