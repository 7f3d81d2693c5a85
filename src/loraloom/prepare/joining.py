"""Put the parts that several machines prepared together into the dataset that one machine would have made.

In: the source, the folder of the dataset, and where the parts lie. Out: the same manifest, problems and report as from one
`prepare`; only the time in `dataset.json` differs. No image of the source is opened; every prepared image is compared with
its sum. What needs all images is done here: near-duplicates, the split, and what `strict` refuses.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loraloom.config.prepare import PrepareConfig
from loraloom.config.reading import read_settings
from loraloom.data.manifest import JOURNAL_FILE, PARTS_FOLDER
from loraloom.prepare.journal import CaptionKey, ImageRow, Journal
from loraloom.prepare.parts import (
    PART_FILE,
    PartRecord,
    listing_sum,
    part_folders,
    read_record,
    versions,
)
from loraloom.prepare.pool import work_on_files
from loraloom.prepare.run import PrepareReport, carry_out, make_job
from loraloom.prepare.source import Source
from loraloom.prepare.workers import Outcome, Task, thumbnail_of_file
from loraloom.utils.atomic_files import remove_directory, sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder
from loraloom.utils.output_paths import COMMAND
from loraloom.utils.parts import Part
from loraloom.utils.progress import Progress
from loraloom.utils.safe_paths import short_hash
from loraloom.utils.untrusted import is_file

_MACHINE_SETTINGS = frozenset({"num_workers", "upscaler"})
"""They change no pixel: the content of the upscaler is part of the fingerprint of pixels."""
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTask:
    """One prepared image of a part: its task, its row, the part, and the folder that it lies in."""

    task: Task
    row: ImageRow
    part: Part
    folder: Path


class JoinedParts:
    """All parts of a dataset: the outcomes of its images.

    Args:
        folders: Folder of each part, in order.
        records: What each part says.
        num_workers: Processes; 0 is one a core.

    Raises:
        UserError: The journal of a part is damaged; names the part.
    """

    def __init__(self, folders: Sequence[Path], records: Sequence[PartRecord], num_workers: int) -> None:
        self.folders, self.records, self.num_workers = folders, records, num_workers
        self.rows: dict[str, tuple[ImageRow, int]] = {}
        captions: dict[CaptionKey, str] = {}
        no_caption: dict[str, str] = {}
        for place, (folder, record) in enumerate(zip(folders, records, strict=True)):
            if sha256_file(folder / JOURNAL_FILE) != record.journal:
                raise _again(record.part, folder, f"its {JOURNAL_FILE} is not what was written")
            journal = Journal(folder / JOURNAL_FILE, write=False)
            self.rows |= {id_: (row, place) for id_, row in journal.rows.items()}
            captions |= journal.captions
            no_caption |= record.no_caption
        self.captions: Mapping[CaptionKey, str] = captions
        self.no_caption: Mapping[str, str] = no_caption

    def check(self, source: Source) -> None:
        """Refuse parts of another source, or of one that has changed.

        Raises:
            UserError: Names the parts.
        """
        here = listing_sum(source)
        others = [place for place, record in enumerate(self.records) if record.listing != here]
        if not others:
            return
        parts = ", ".join(str(self.records[place].part) for place in others[:_NAMED])
        what = f"part{'s' * (len(others) > 1)} {parts} {'were' if len(others) > 1 else 'was'} made of other images or texts"
        fix = f"copy one source to all machines, and prepare {self.folders[others[0]]} again: what is the same is kept"
        raise UserError(f"{what} than {source.folder} has", fix=fix)

    def of(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """What became of each task in its part; the prepared images are linked or copied into the dataset.

        Raises:
            UserError: A part says nothing of an image, or its file is missing or damaged; names the part.
        """
        taken: list[JoinTask] = []
        too_small = {id_ for record in self.records for id_ in record.too_small}
        for task in tasks:
            place = task.number % len(self.records)
            row, owner = self.rows.get(task.id, (None, place))
            if task.id in too_small:
                yield Outcome(task=task, too_small=True)
            elif (reason := self.records[place].refused.get(task.id)) is not None:
                yield Outcome(task=task, problem=reason)
            elif row is None or owner != place or row.image != task.image:
                raise _again(self.records[place].part, self.folders[place], f"it lacks the image {task.id}")
            else:
                part, folder = self.records[place].part, self.folders[place]
                taken.append(JoinTask(task=task, row=row, part=part, folder=folder))
        yield from work_on_files(_take_over, _lost, taken, self.num_workers)


def join_parts(
    source: Path,
    out: Path,
    places: Sequence[Path],
    *,
    model: str | None = None,
    counter: Callable[[str | None], Callable[[str], int] | None] = lambda model: None,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> PrepareReport:
    """Make the dataset of all parts. Those that lie in `out` are removed when it is finished.

    Args:
        source: The folder that the parts were made of.
        out: The dataset.
        places: Where parts are, beside `out`: their folders, or folders that hold some.
        model: Model whose tokenizer counts tokens; None takes that of the parts.
        counter: Makes what counts the tokens of a caption; it is given `model`, or that of the parts.
        console, progress: As of `prepare`.

    Raises:
        UserError: A part is missing, not finished, damaged, or made of another source, with other settings or with another
            version; or whatever `prepare` raises.
    """
    for place in places:
        if not place.is_dir():
            raise UserError("there is no such folder of parts", got=str(place), fix="check its name")
    found = _by_part(part_folders([out, *places]), out)
    records = [read_record(folder) for folder in found]
    _check_alike(found, records, console)
    config = read_settings(PrepareConfig, values=records[0].settings)
    count = counter(model or records[0].model)
    job = make_job(source, out, config, count_tokens=count, console=console, progress=progress)
    if (pixels := job.settings.fingerprint()) != records[0].pixels:
        raise UserError("the parts were made by another version", got=records[0].pixels, expected=pixels, fix=_UPDATE)
    with lock_folder(out, console, deep=True):
        report = carry_out(job, JoinedParts(found, records, config.num_workers))
        for folder in found:
            if folder.resolve().parent == (out / PARTS_FOLDER).resolve():
                remove_directory(folder)
        with suppress(OSError):
            (out / PARTS_FOLDER).rmdir()
    return report


_UPDATE = "use one version of loraloom on all machines, and prepare the parts again"


def _by_part(folders: Sequence[Path], out: Path) -> list[Path]:
    """The folders in order of their parts.

    Raises:
        UserError: There is none, one is missing or not finished, or parts of two divisions lie there.
    """
    if not folders:
        fix = (
            f"prepare them: {COMMAND} prepare IMAGES --out {out} --part 1/2, then 2/2; or name the folders they lie in"
        )
        raise UserError("there are no parts to join", got=str(out), fix=fix)
    unfinished = [folder for folder in folders if not (folder / PART_FILE).is_file()]
    if unfinished:
        fix = "run its `loraloom prepare --part` again, and wait until it ends"
        raise UserError(f"{_listed(unfinished)} not finished", got=f"no {PART_FILE}", fix=fix)
    known: dict[Part, Path] = {}
    for folder in folders:
        record = read_record(folder)
        other = known.setdefault(record.part, folder)
        if other != folder and read_record(other) != record:
            got = f"{other} and {folder}"
            raise UserError(f"part {record.part} is there twice, and the two differ", got=got, fix="remove one")
    of = {part.of for part in known}
    if len(of) > 1:
        got = ", ".join(f"part {part} in {known[part]}" for part in sorted(known))
        fix = f"remove those that are left from an earlier division, below {out / PARTS_FOLDER}"
        raise UserError("parts of several divisions", got=got, fix=fix)
    number = of.pop()
    missing = [Part(place, number) for place in range(1, number + 1) if Part(place, number) not in known]
    if missing:
        named = ", ".join(str(part) for part in missing[:_NAMED]) + " ..." * (len(missing) > _NAMED)
        verb = "part is missing" if len(missing) == 1 else "parts are missing"
        fix = f"prepare it with --part {missing[0]}, or copy its folder here and name it"
        raise UserError(f"{len(missing):,} {verb}: {named}", got=f"{len(known):,} of {number:,}", fix=fix)
    return [known[Part(place, number)] for place in range(1, number + 1)]


def _check_alike(folders: Sequence[Path], records: Sequence[PartRecord], console: Callable[[str], None]) -> None:
    """Refuse parts that differ from most of the others in what decides a dataset; say where versions differ.

    Raises:
        UserError: Names the parts, and the settings.
    """
    kept = [_settings_of(record) for record in records]
    texts = [repr(sorted(settings.items())) + record.pixels for settings, record in zip(kept, records, strict=True)]
    usual = texts.index(_most(texts))
    others = [place for place, text in enumerate(texts) if text != texts[usual]]
    if others:
        one = kept[others[0]]
        keys = sorted(key for key in {*one, *kept[usual]} if one.get(key) != kept[usual].get(key)) or ["upscaler"]
        named = ", ".join(f"{key}={_value(one, key)} for {_value(kept[usual], key)}" for key in keys[:_NAMED])
        parts = ", ".join(str(records[place].part) for place in others[:_NAMED])
        what = f"part{'s' * (len(others) > 1)} {parts} {'have' if len(others) > 1 else 'has'} other settings than"
        which = f"part {records[usual].part}" if len(records) == 2 else "the others"
        fix = f"prepare {folders[others[0]]} again with the settings of part {records[usual].part}"
        raise UserError(f"{what} {which}", got=named, fix=fix)
    own = versions()
    for record in records:
        differing = [
            f"{name} {record.versions.get(name)}, here {own[name]}" for name in own if _differs(record, own, name)
        ]
        if differing:
            console(f"note: part {record.part} was made with {'; '.join(differing)}: its pixels may differ by rounding")


def _differs(record: PartRecord, own: Mapping[str, str], name: str) -> bool:
    return name != "python" and record.versions.get(name) != own[name]


def _settings_of(record: PartRecord) -> dict[str, object]:
    settings: dict[str, object] = {key: value for key, value in record.settings.items() if key not in _MACHINE_SETTINGS}
    return settings | {"model": record.model}


def _value(settings: Mapping[str, object], key: str) -> object:
    return settings.get(key, "the default")


def _most(texts: Sequence[str]) -> str:
    """The most frequent text; of equally frequent ones the first."""
    counts = Counter(texts)
    return max(texts, key=lambda text: (counts[text], -texts.index(text)))


def _listed(folders: Sequence[Path]) -> str:
    named = ", ".join(str(folder) for folder in folders[:_NAMED]) + " ..." * (len(folders) > _NAMED)
    return f"{len(folders):,} parts ({named}) are" if len(folders) > 1 else f"the part {named} is"


def _again(part: Part, folder: Path, why: str) -> UserError:
    fix = f"run its command again, with --part {part}, or copy {folder} once more"
    return UserError(f"part {part} cannot be used: {why}", got=str(folder), fix=fix)


def _take_over(job: JoinTask) -> Outcome:
    """Link or copy a prepared image into the dataset, and compare it with its sum.

    Raises:
        UserError: It is missing, damaged, or cannot be written.
    """
    task, row = job.task, job.row
    origin, target = job.folder / row.image, task.folder / task.image
    try:
        if not is_file(origin):  # a pipe would never end
            raise _again(job.part, job.folder, f"{row.image} is missing or no file")
        if sha256_file(origin) != row.sha256:
            raise _again(job.part, job.folder, f"{row.image} is not what was prepared")
    except OSError as error:
        raise _again(job.part, job.folder, f"{row.image} cannot be read: {error.strerror}") from None
    temporary = target.with_name(f".{short_hash(target.name)}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        _link_or_copy(origin, temporary)
        temporary.replace(target)
    except OSError as error:
        fix = "make room"
        raise UserError("a prepared image cannot be written", got=f"{target}: {error.strerror}", fix=fix) from None
    finally:
        temporary.unlink(missing_ok=True)  # it stays where both are links to one file already
    return Outcome(task=task, row=row, thumbnail=thumbnail_of_file(task, target))


def _link_or_copy(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except OSError:  # on another file system, or on one without links
        shutil.copyfile(origin, target)


def _lost(job: JoinTask, reason: str) -> Outcome:
    raise UserError("a prepared image cannot be read", got=f"{job.folder / job.row.image}: {reason}", fix="join again")
