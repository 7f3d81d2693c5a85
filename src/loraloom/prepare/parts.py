"""One part of a folder, prepared by one of several machines or jobs; `joining` puts the parts together.

In: a source, settings and `Part(2, 5)`: every fifth item from the second. Out: `OUT/parts/2-of-5` with the prepared images,
their journal, and `part.json`, which is written last: a part that has it is finished. Nothing outside this folder is
written, so that parts may be prepared at one time on a shared disk, or each on its own disk and be copied.
"""

import hashlib
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from loraloom import __version__
from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import JOURNAL_FILE, PARTS_FOLDER
from loraloom.prepare.folders import check_folders, sweep
from loraloom.prepare.journal import Journal
from loraloom.prepare.run import make_job
from loraloom.prepare.source import Source, shown_below
from loraloom.prepare.work import Work
from loraloom.utils.atomic_files import sha256_file, write_json
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder
from loraloom.utils.parts import MAX_PARTS, Part
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import MAX_TABLE_BYTES, parse_record, read_text

PART_FILE = "part.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What `part.json` says.

    Attributes:
        number, of: Which part.
        listing: sha256 over the items of the whole source: ids, file names and texts.
        journal: sha256 of the part's journal.
        settings: The settings that were given.
        pixels: `ImageSettings.fingerprint`.
        model: Where the tokenizer is that counts tokens; None counts none.
        versions: Versions of programs that decide pixels.
        refused: Why an image was refused, by the id of its task.
        too_small: Ids of tasks that are left out at a further size.
        no_caption: Why the captioner refused an image, by the id of the item.
    """

    number: int
    of: int
    listing: str
    journal: str
    settings: dict[str, Any]
    pixels: str
    model: str | None
    versions: dict[str, str]
    refused: dict[str, str]
    too_small: tuple[str, ...]
    no_caption: dict[str, str]

    @property
    def part(self) -> Part:
        return Part(self.number, self.of)


def prepare_part(
    source: Path,
    out: Path,
    part: Part,
    config: PrepareConfig,
    *,
    model: str | None = None,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> PartRecord:
    """Prepare one part of `source` below `out`; the same call continues after a kill.

    Args:
        source: Folder with images and texts; every machine needs all of it, or its list would differ.
        out: Folder of the dataset that the parts become.
        part: Which images.
        config: All settings, the same for every part.
        model: Model whose tokenizer counts tokens when the parts are joined.
        console, progress: As of `prepare`.

    Raises:
        UserError: As `prepare`, except for what only all parts together can show.
    """
    check_folders(source, out)
    folder = out / PARTS_FOLDER / folder_name(part)
    job = make_job(source, folder, config, console=console, progress=progress)
    started = time.perf_counter()
    with lock_folder(folder, console, deep=True):
        (folder / PART_FILE).unlink(missing_ok=True)
        found = job.read_source()
        sweep(folder)
        refused: dict[str, str] = {}
        too_small: list[str] = []
        with Journal(folder / JOURNAL_FILE) as journal:
            work = Work(found, folder, config, job.captioner, None, journal)
            tasks = [task for task in work.tasks(found.items) if part.has(task.number)]
            for outcome in work.seen(job.run_tasks(tasks), len(tasks), progress):
                if outcome.too_small:
                    too_small.append(outcome.task.id)
                elif outcome.row is None:
                    refused[outcome.task.id] = outcome.problem or "refused"
            made = {row.image for row in journal.rows.values()}
            kept = [journal.rows[task.id] for task in tasks if task.id in journal.rows and task.id not in refused]
            journal.compact({row.id for row in kept} | {task.item for task in tasks})
        for image in made - {row.image for row in kept}:
            (folder / image).unlink(missing_ok=True)
        record = PartRecord(
            number=part.number,
            of=part.of,
            listing=listing_sum(found),
            journal=sha256_file(folder / JOURNAL_FILE),
            settings=config.model_dump(mode="json", exclude_unset=True),
            pixels=job.settings.fingerprint(),
            model=model,
            versions=versions(),
            refused=refused,
            too_small=tuple(too_small),
            no_caption=work.no_caption,
        )
        write_json(folder / PART_FILE, asdict(record))
    images, seconds = len(kept), time.perf_counter() - started
    not_used = f", {len(refused):,} not used" if refused else ""
    console(f"part {part}: {images:,} of {len(work.usable):,} images in {seconds:.1f} s{not_used}")
    return record


def folder_name(part: Part) -> str:
    """Where a part lies in `PARTS_FOLDER`."""
    return f"{part.number}-of-{part.of}"


def versions() -> dict[str, str]:
    """Versions of programs that may change pixels or captions."""
    return {
        "loraloom": __version__,
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


def listing_sum(source: Source) -> str:
    """sha256 over what a source holds by name: every item with its file and texts, wherever the folder lies."""
    digest = hashlib.sha256(source.choice.format.name.encode())
    for item in source.items:
        place = shown_below(source.folder, item.image)
        row = (item.id, place, item.caption, item.more_captions, item.problem)
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def read_record(folder: Path) -> PartRecord:
    """The record of a finished part.

    Raises:
        UserError: It is damaged.
    """
    file = folder / PART_FILE
    record = parse_record(PartRecord, read_text(file, str(file), max_bytes=MAX_TABLE_BYTES), str(file))
    if not 1 <= record.number <= record.of <= MAX_PARTS:
        raise UserError(f"{file} names no part", got=f"{record.number}/{record.of}", fix="prepare the part again")
    return record


def part_folders(places: Sequence[Path]) -> list[Path]:
    """The parts, finished or not, in some folders: the folder of a part itself, or that of a dataset or of several parts."""
    found: dict[Path, Path] = {}
    for place in places:
        candidates = [place, *sorted(place.glob("*-of-*")), *sorted((place / PARTS_FOLDER).glob("*-of-*"))]
        for folder in candidates:
            if (_NAME.fullmatch(folder.name) and (folder / JOURNAL_FILE).is_file()) or (folder / PART_FILE).is_file():
                found.setdefault(folder.resolve(), folder)
    return list(found.values())


_NAME = re.compile(r"\d+-of-\d+")
