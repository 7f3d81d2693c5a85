"""Ship the project and the data to hosts: one tar stream each, into a folder named by the content, checked where it arrives.

In: hosts and a project folder. Out: `<root>/release-<hash>` on each of them, with a Python that has the versions of the
master. Nothing on a host is deleted or overwritten: another content has another name, and a broken stream is sent again.
"""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from loraloom.cluster.hosts import Host
from loraloom.cluster.links import Link
from loraloom.cluster.trees import (
    LEFT_OUT,
    MANIFEST,
    Manifest,
    cached_manifest,
    manifest_of,
    release_name,
    to_json,
    walk,
    write_tar,
)
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError

REQUIREMENTS = "cluster-requirements.txt"
NODE = b"""import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "src"), str(HERE)]
from loraloom.cluster.agent import main

main()
"""
"""`node.py` of a release: the node agent's entry, which finds the shipped project without an installation."""

SYNC_S = 3600.0
SEND_S = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A project ready to be shipped.

    Attributes:
        folder: Where its files are.
        names: Files to ship, relative.
        extra: Files that are made for the release.
        manifest: All of them.
    """

    folder: Path
    names: tuple[str, ...]
    extra: dict[str, bytes]
    manifest: Manifest

    @property
    def name(self) -> str:
        """Folder on the hosts."""
        return release_name(self.manifest)


def project_folder() -> Path:
    """The checkout that the running program is of, or the folder above the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() and package.parent.name == "src" else package.parent


def make_release(project: Path | None = None) -> Release:
    """List what is shipped: the project without `LEFT_OUT`, or only the package where there is no checkout.

    Raises:
        UserError: The folder holds no loraloom.
    """
    folder = (project or project_folder()).resolve()
    source = folder / "src" / "loraloom"
    if not source.is_dir() and not (folder / "loraloom").is_dir():
        raise UserError("not a project with loraloom in it", got=str(folder), expected="a folder with src/loraloom")
    if source.is_dir():
        names = tuple(walk(folder, LEFT_OUT))
    else:  # installed: its neighbours are other packages
        names = tuple(f"loraloom/{name}" for name in walk(folder / "loraloom", LEFT_OUT))
    extra = {"node.py": NODE, REQUIREMENTS: requirements().encode()}
    names = tuple(name for name in names if name not in extra)
    files = dict(manifest_of(folder, names).files)
    files |= {name: (len(content), sha256_bytes(content)) for name, content in extra.items()}
    manifest = Manifest(files)
    return Release(folder=folder, names=names, extra={**extra, MANIFEST: to_json(manifest).encode()}, manifest=manifest)


def requirements() -> str:
    """The installed versions of everything that loraloom requires, so that every node gets the same ones.

    A local version such as `+cu130` is left out: which build of torch fits is the node's own.
    """
    pending, seen = ["loraloom"], dict[str, str]()
    while pending:
        name = pending.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        key = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if key in seen:
            continue
        seen[key] = found.version.partition("+")[0]
        for line in found.requires or []:
            text, _, marker = line.partition(";")
            if "extra" not in marker and (match := re.match(r"[A-Za-z0-9._-]+", text)):
                pending.append(match[0])
    # Libraries of NVIDIA and triton come with the build of torch that the node gets.
    left = {
        name: version
        for name, version in seen.items()
        if not name.startswith(("loraloom", "nvidia-", "cuda-", "triton"))
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(left.items()))


def root_of(host: Host) -> str:
    """The host's folder as commands name it: a local one absolute, another relative to the login's home or absolute."""
    if host.transport == "local":
        return (Path.home() / Path(host.root).expanduser()).as_posix()
    return host.root.rstrip("/\\")


def python_of(host: Host) -> str:
    """The host's Python: its own, or the one that `deploy` makes."""
    if host.python:
        return host.python
    return f"{root_of(host)}/venv/" + ("Scripts/python.exe" if host.system == "windows" else "bin/python")


async def deploy(link: Link, release: Release, archive: Path, say: Callable[[str], None]) -> str:
    """Ship a release to a host and give it a Python; returns the release's folder there.

    Raises:
        LinkLostError, UserError: The host does not answer, refuses, or a step failed; names host and step.
    """
    host = link.host
    root = root_of(host)
    target = f"{root}/{release.name}"
    await make_folder(link, target)
    if host.python is None:
        await make_python(link)
    if await damage_of(link, target) == []:
        say(f"[{host.name}] {release.name} is there already")
    else:
        await link.checked(["tar", "-x", "-f", "-", "-C", target], "unpacking", data=archive, timeout_s=SEND_S)
        if host.python is None:
            await install(link, target, say)
        damage = await damage_of(link, target)
        if damage != []:
            raise UserError(f"{host.name}: the release arrived damaged", got=", ".join(damage or ["no answer"]))
        files = counted(len(release.manifest.files), "file")
        say(f"[{host.name}] {release.name}: {files}, {release.manifest.size / 1e6:.1f} MB")
    return target


async def damage_of(link: Link, target: str) -> list[str] | None:
    """What the node finds wrong with its release; None where it cannot even be asked."""
    try:
        answer = await link.ask([python_of(link.host), f"{target}/node.py", "check"], timeout_s=120)
    except UserError:
        return None
    return list(answer["damage"])


async def make_folder(link: Link, folder: str) -> None:
    """Make a folder and those above it."""
    if link.host.system == "windows":
        await link.checked(["powershell", "-NoProfile", "-Command", "mkdir", "-Force", folder], "making a folder")
    else:
        await link.checked(["mkdir", "-p", folder], "making a folder")


async def make_python(link: Link) -> None:
    """A virtual environment by uv, which fetches a Python where there is none."""
    host, root = link.host, root_of(link.host)
    if not await _runs(link, python_of(host)):
        uv = await find_uv(link)
        await link.checked([uv, "venv", "--python", "3.11", f"{root}/venv"], "uv venv", timeout_s=SYNC_S)


async def find_uv(link: Link) -> str:
    """How uv is called there: a session without a terminal often lacks the account's own folder of programs.

    Raises:
        UserError: It is not installed.
    """
    for name in ("uv", ".local/bin/uv"):
        if await _runs(link, name):
            return name
    raise UserError(f"{link.host.name}: uv is not installed", fix="run worker_setup on that machine")


async def _runs(link: Link, program: str) -> bool:
    try:
        return (await link.run([program, "--version"])).status == 0
    except UserError:
        return False


async def install(link: Link, target: str, say: Callable[[str], None]) -> None:
    """Install the master's versions there; on Windows with the build of torch that the driver fits.

    The wheel of torch that Windows gets by default computes on the CPU only.
    """
    say(f"[{link.host.name}] installing packages with uv; the first time takes minutes")
    line = [await find_uv(link), "pip", "install", "--python", python_of(link.host), "-r", f"{target}/{REQUIREMENTS}"]
    if link.host.system == "windows":
        line += ["--torch-backend", "auto"]
    await link.checked(line, "uv pip install", timeout_s=SYNC_S)


# ----------------------------------------------------------------------------------------------------------------- data


def data_name(folder: Path, manifest: Manifest) -> str:
    """Folder of a dataset or model below a root."""
    return f"data/{folder.resolve().name or 'data'}-{manifest.digest[:12]}"


def data_manifest(folder: Path, root: Path) -> Manifest:
    """Sums of a folder of the master, kept below its own root for the next time."""
    return cached_manifest(folder, root / "sums" / f"{sha256_bytes(str(folder.resolve()).encode())[:16]}.json")


async def ship_data(link: Link, agent: list[str], folder: Path, manifest: Manifest, say: Callable[[str], None]) -> str:
    """Bring a dataset or model to a host unless it is there; returns its path there, relative to the root.

    On this machine a link is enough.

    Raises:
        LinkLostError, UserError: As `deploy`; or the host's copy differs, and then the first files are named.
    """
    host, name = link.host, data_name(folder, manifest)
    if host.transport == "local":
        place = Path(root_of(host)) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, OSError):
            place.symlink_to(folder.resolve(), target_is_directory=True)
        if place.exists():
            return name
    if await data_differences(link, agent, name, manifest):
        await make_folder(link, f"{root_of(host)}/{name}")
        with tempfile.NamedTemporaryFile(delete=False) as file:
            write_tar(file.file, folder, list(manifest.files))
        try:
            line = ["tar", "-x", "-f", "-", "-C", f"{root_of(host)}/{name}"]
            await link.checked(line, "unpacking the data", data=Path(file.name), timeout_s=SEND_S)
        finally:
            Path(file.name).unlink()
        if differences := await data_differences(link, agent, name, manifest):
            raise UserError(f"{host.name}: the data differ from this machine's", got="; ".join(differences))
        say(f"[{host.name}] {name}: {counted(len(manifest.files), 'file')}, {manifest.size / 1e6:.1f} MB")
    return name


async def data_differences(link: Link, agent: list[str], folder: str, manifest: Manifest) -> list[str]:
    """The first files of a host's folder that differ from the master's; empty: the same data."""
    answer: dict[str, Any] = await link.ask(agent, {"folder": folder}, timeout_s=SEND_S)
    if "missing" in answer:
        return [f"{folder} is missing"]
    there = Manifest({name: (row[0], row[1]) for name, row in answer["manifest"].items()})
    return manifest.differences(there)


def make_archive(release: Release) -> Path:
    """The release as a tar file in the folder for temporary files; the caller deletes it."""
    descriptor, name = tempfile.mkstemp(prefix="loraloom-", suffix=".tar")
    with os.fdopen(descriptor, "wb") as file:
        write_tar(file, release.folder, release.names, release.extra)
    return Path(name)
