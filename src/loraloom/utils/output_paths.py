"""Where a command is about to write, looked at before it works, and what its user types next.

In: paths as they were typed. Out: a mistake while it costs nothing, a line to copy.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from loraloom.utils.errors import UserError

COMMAND = "uv run loraloom" if "UV_RUN_RECURSION_DEPTH" in os.environ else "loraloom"
"""As its user calls it: what `uv run` starts is on no path of the shell."""


def check_folder(path: Path) -> None:
    """See that a folder can be made or filled there.

    Raises:
        UserError: The path, or a part of it, is a file, or a link that leads nowhere or to itself.
    """
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise UserError(
                f"{part} is a link that leads nowhere",
                got=str(part.readlink()),
                expected="a folder to write into",
                fix="remove the link, make what it points to, or name another folder",
            )
    standing = next((part for part in (path, *path.parents) if part.exists()), None)
    if standing is not None and not standing.is_dir():
        raise UserError(f"{standing} is a file", expected="a folder to write into", fix="name another folder")


def images_folder(out: Path | None, adapters: Sequence[Path]) -> Path:
    """Where `generate` writes: `out`, or beside the first adapter that is a run's folder, or `images`."""
    if out is not None:
        return out
    return adapters[0] / "generated" if adapters and adapters[0].is_dir() else Path("images")


def check_file(path: Path) -> None:
    """See that a file can be written there.

    Raises:
        UserError: The path is a folder, or a part of it is a file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder", expected="a file to write", fix="name a file in it")
    check_folder(path.parent)


def prepare_line(folder: Path, domain: str) -> str:
    """The command that prepares a dataset from a folder of synthesized images."""
    name = folder.resolve().name or "images"
    source, dataset = shlex.quote(str(folder)), shlex.quote(f"datasets/{name}")
    return f"{COMMAND} prepare {source} --out {dataset} --domain {domain} --size 256 --resample nearest"
