"""The folders of `prepare`: which output may be written, and what a killed run left in it.

In: source and output. Out: a made output folder, or a refusal.
"""

import re
from pathlib import Path

from loraloom.data.manifest import INFO_FILE, JOURNAL_FILE, MANIFEST_FILE, PARTS_FOLDER
from loraloom.utils.errors import UserError
from loraloom.utils.locks import LOCK_NAME
from loraloom.utils.output_paths import check_folder

IMAGE_FOLDER = "images"
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")
"""What a kill leaves of a file that was being written: `.problems.jsonl.1234.tmp`."""


def check_folders(source: Path, out: Path) -> None:
    """Refuse to read what this writes, and to write among files that somebody else made."""
    check_folder(out)
    here, there = source.resolve() if source.exists() else source.absolute(), out.resolve()
    if there == here or there.is_relative_to(here):
        fix = "choose an --out beside the source: prepare would read its own images"
        raise UserError("the dataset would lie in its own source", got=str(out), fix=fix)
    if here.is_relative_to(there / IMAGE_FOLDER):
        raise UserError("the source lies where prepared images go", got=str(source), fix="choose another --out")
    if out.exists() and not out.is_dir():
        raise UserError("the output is a file", got=str(out), fix="choose another --out")
    ours = any((out / name).exists() for name in (JOURNAL_FILE, INFO_FILE, MANIFEST_FILE))
    if out.is_dir() and not ours and any(entry.name not in {LOCK_NAME, PARTS_FOLDER} for entry in out.iterdir()):
        fix = "choose a new folder with --out: nothing of yours is overwritten"
        raise UserError("the output folder is not empty and not a dataset", got=str(out), fix=fix)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "the output folder cannot be made", got=f"{out}: {error.strerror}", fix="check --out"
        ) from error


def sweep(out: Path) -> None:
    """Remove what a killed run was writing when it was killed."""
    for path in (*out.glob(".*.tmp"), *(out / IMAGE_FOLDER).rglob(".*.tmp")):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
