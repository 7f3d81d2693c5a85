"""Checkpoints between machines without a shared disk: the newest whole one goes to every node, new ones come back.

In: run folders on the master and on nodes. Out: the same newest checkpoint everywhere before an attempt starts. What comes
from a node is unpacked beside, checked against its own sums, and then gets its name.
"""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loraloom.cluster.deploying import SEND_S, make_folder, root_of
from loraloom.cluster.links import Link
from loraloom.cluster.plan import Member
from loraloom.cluster.trees import walk, write_tar
from loraloom.utils.atomic_files import beside, sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.safe_paths import path_problem
from loraloom.utils.untrusted import is_file, read_json_object

RECORDS = ("run.yaml", "events.jsonl")
"""Beside the checkpoint, what the node of rank 0 continues."""
_NAME = re.compile(r"step_\d{7,12}")


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint has the sum that its manifest names."""
    try:
        sums = read_json_object(folder / "manifest.json", "manifest.json").get("sha256")
    except UserError:
        return False
    if not isinstance(sums, dict) or not sums:
        return False
    return all(
        not path_problem(str(name)) and is_file(folder / str(name)) and sha256_file(folder / str(name)) == value
        for name, value in sums.items()
    )


def newest_whole(run_folder: Path) -> str:
    """Name of the newest whole checkpoint of a run folder; empty when there is none."""
    found = sorted(path for path in (run_folder / "checkpoints").glob("step_*") if _NAME.fullmatch(path.name))
    return next((path.name for path in reversed(found) if is_whole(path)), "")


def folder_on(member: Member) -> str:
    """The run folder on a node, as commands name it."""
    absolute = member.run_folder.startswith("/") or re.match(r"[A-Za-z]:", member.run_folder)
    return member.run_folder if absolute else f"{root_of(member.host)}/{member.run_folder}"


def is_here(member: Member, home: Path) -> bool:
    """Whether the node's run folder is the master's own."""
    return member.host.transport == "local" and Path(folder_on(member)) == home


async def send(link: Link, member: Member, home: Path, name: str) -> None:
    """Bring a checkpoint and the run's records to a node.

    Raises:
        LinkLostError, UserError: The node does not answer or cannot unpack them.
    """
    names = [f"checkpoints/{name}/{file}" for file in walk(home / "checkpoints" / name)]
    names += [record for record in RECORDS if (home / record).is_file()]
    await make_folder(link, folder_on(member))
    with tempfile.NamedTemporaryFile(delete=False) as file:
        write_tar(file.file, home, names)
    try:
        line = ["tar", "-x", "-f", "-", "-C", folder_on(member)]
        await link.checked(line, "unpacking a checkpoint", data=Path(file.name), timeout_s=SEND_S)
    finally:
        Path(file.name).unlink()


async def fetch_checkpoint(link: Link, member: Member, home: Path, name: str) -> bool:
    """Bring a checkpoint of a node into the master's run folder; whether it arrived whole.

    A checkpoint that the node removed meanwhile, as a newer one stands, is no error.
    """
    assert _NAME.fullmatch(name), name
    target = home / "checkpoints" / name
    if target.exists() and is_whole(target):
        return True
    try:
        with _fetched(home) as draft:
            await _fetch(link, folder_on(member), [f"checkpoints/{name}"], draft)
            for record in RECORDS:
                with suppress(UserError):  # not written yet
                    await _fetch(link, folder_on(member), [record], draft)
            return _take(draft, home, name)
    except UserError:
        return False


async def fetch_run(link: Link, member: Member, home: Path) -> None:
    """Bring a finished run folder of a node to the master, without its checkpoints.

    Raises:
        LinkLostError, UserError: The node does not answer, or what it sent cannot be unpacked.
    """
    with _fetched(home) as draft:
        await _fetch(link, folder_on(member), ["."], draft, ["--exclude=./checkpoints", "--exclude=./.cluster"])
        for name in walk(draft):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(home / name)


async def _fetch(link: Link, folder: str, names: Iterable[str], draft: Path, options: Iterable[str] = ()) -> None:
    archive = draft.with_name(f"{draft.name}.tar")
    try:
        line = ["tar", "-c", "-f", "-", *options, "-C", folder, *names]
        await link.checked(line, "packing results", output=archive, timeout_s=SEND_S)
        try:
            with tarfile.open(archive, "r:") as packed:
                packed.extractall(draft, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{link.host.name}: what was fetched cannot be unpacked", got=str(error)[:200]) from None
    finally:
        archive.unlink(missing_ok=True)


def _take(draft: Path, home: Path, name: str) -> bool:
    """Give what was fetched its name, if it is whole."""
    if not is_whole(draft / "checkpoints" / name):
        return False
    target = home / "checkpoints" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # damaged, or it would not have been fetched
        shutil.rmtree(target)
    (draft / "checkpoints" / name).rename(target)
    for record in RECORDS:
        if (draft / record).is_file():
            (draft / record).replace(home / record)
    return True


@contextmanager
def _fetched(home: Path) -> Iterator[Path]:
    """A folder in the run folder that is removed with what was not taken."""
    path = beside(home / "fetched")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def spread(links: dict[str, Link], members: Iterable[Member], home: Path) -> str:
    """Let the master and all nodes have the newest whole checkpoint that any of them has; returns its name.

    Raises:
        LinkLostError, UserError: A node stopped answering; the caller tries again without it.
    """
    standing: dict[str, str] = {}
    members = list(members)
    for member in members:
        if not is_here(member, home):
            answer = await links[member.host.name].ask(member.agent("checkpoint"), {"run_folder": member.run_folder})
            standing[member.host.name] = str(answer["checkpoint"])
    newest = newest_whole(home)
    for member in sorted(members, key=lambda member: standing.get(member.host.name, ""), reverse=True):
        name = standing.get(member.host.name, "")
        better = name > newest and _NAME.fullmatch(name)
        if better and await fetch_checkpoint(links[member.host.name], member, home, name):
            newest = name
    for member in members:
        if newest and not is_here(member, home) and standing[member.host.name] != newest:
            await send(links[member.host.name], member, home, newest)
    return newest
