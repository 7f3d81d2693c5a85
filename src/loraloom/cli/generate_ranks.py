"""`loraloom generate --num-processes`: each rank generates whole batches; this process puts the images together.

In: the arguments of this command and a folder. Out: the same files as from one process. Ranks write into hidden folders
of that folder; what is finished is kept when a rank fails.
"""

import sys
from pathlib import Path

import typer

from loraloom.cli.generate_command import write_sheet
from loraloom.cli.processes import count_processes, without
from loraloom.generate.recipes import append_rows, read_rows, request_of
from loraloom.generate.saving import next_number
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.atomic_files import remove_directory
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock, lock_folder
from loraloom.utils.output_paths import check_folder
from loraloom.utils.ranks import run_ranks


def generate_on_processes(wish: str, out: Path, clash: str) -> None:
    """Run this command on as many processes as `wish` says and exit; return where that is one.

    Raises:
        UserError: `clash` names an option that cannot be used with it, or `wish` is no number of processes.
    """
    if clash:
        raise UserError(f"--num-processes cannot be used with {clash}", fix="name --out, and type no prompts")
    count = count_processes(wish, cpu=False)
    if count > 1:
        raise typer.Exit(generate_on_ranks(out, count))


def generate_on_ranks(out: Path, count: int) -> int:
    """Run this command as `count` ranks; returns the exit status."""
    check_folder(out)
    arguments = without(sys.argv[1:], "--num-processes", "--out")
    with lock_folder(out) as lock:
        _sweep(out)
        command = [sys.executable, "-m", "loraloom", *arguments, "--out", str(out / ".rank_{rank}")]
        ended = run_ranks(command, count, None)
        made = _collect(lock, count)
        _sweep(out)
        for path, request in made:
            print(f"{path}  seed {request.seed}")
        if len(made) > 1:
            print(f"contact sheet: {write_sheet(made, out)}")
        if made:
            print(f"{counted(len(made), 'image')}; generate them again with --recipe {out / 'prompts.jsonl'}")
    if ended.first is None:
        return 0
    if ended.asked:
        return 130
    if ended.codes[0] != 2:
        rank = f"rank {ended.first} of {count} (process {ended.pid}) {ended.reason()}"
        sys.stderr.write(f"error: {rank}; all ranks were ended, and {len(made)} images are finished\n")
    return 2 if ended.codes[ended.first] == 2 else 1


def _collect(lock: FolderLock, count: int) -> list[tuple[Path, ImageRequest]]:
    """Move the ranks' images into the folder, in order of their numbers, which follow the highest one there."""
    out = lock.folder
    lock.renew()
    first, rows = next_number(out), {}
    for rank in range(count):
        folder = out / f".rank_{rank}"
        if (folder / "prompts.jsonl").is_file():
            rows |= {int(Path(row["file"]).stem): (folder, row) for row in read_rows(folder)}
    made: list[tuple[Path, ImageRequest]] = []
    for number, (folder, row) in sorted(rows.items()):
        path = out / f"{first + number:05d}.png"
        (folder / row["file"]).replace(path)
        append_rows(out, [{**row, "file": path.name}])
        made.append((path, request_of(row)))
    return made


def _sweep(out: Path) -> None:
    for folder in out.glob(".rank_*"):
        remove_directory(folder)
