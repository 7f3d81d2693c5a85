"""A raw folder to a dataset.

In: a folder of images and texts, and `PrepareConfig`. Out: a folder with `manifest.jsonl`, the prepared images,
what was refused and why, and a report to look at. It can be killed at any time; the same command continues.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL

from loraloom import __version__, plugins
from loraloom.config.extending import options_of, unused_lines
from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import JOURNAL_FILE, MANIFEST_FILE, Manifest, make_manifest, write_manifest
from loraloom.prepare.detect import Choice
from loraloom.prepare.duplicates import split_examples
from loraloom.prepare.folders import check_folders, sweep
from loraloom.prepare.images import ImageSettings
from loraloom.prepare.journal import CaptionKey, Journal
from loraloom.prepare.leftovers import check_captions
from loraloom.prepare.lines import unknown_ids, unread_lines
from loraloom.prepare.problems import PROBLEMS_FILE, tell_problems, write_problems
from loraloom.prepare.report import Problem, write_report
from loraloom.prepare.source import Source, read_source
from loraloom.prepare.suitability import unsuited_images
from loraloom.prepare.work import Work
from loraloom.prepare.workers import Outcome, Task, run_tasks
from loraloom.protocols.data import Captioner, Example
from loraloom.protocols.domain import Domain
from loraloom.utils.atomic_files import fsync_path
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress

REPORT_FILE = "report.html"
MAX_THUMBNAILS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What `prepare` did.

    Attributes:
        manifest: The dataset.
        problems: Files that were not used, and why.
        notes: Files that were used, and what the user should know about them; images without a caption are among them.
        num_reused: Images that an earlier run had made.
        num_duplicates: Images that are nearly the same as another one.
        num_without_caption: Images for which no text was found, and that the captioner captioned.
        seconds: Wall time.
        page: The report for the browser.
    """

    manifest: Manifest
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    num_reused: int
    num_duplicates: int
    num_without_caption: int
    seconds: float
    page: Path


def prepare(
    source: Path,
    out: Path,
    config: PrepareConfig,
    *,
    count_tokens: Callable[[str], int] | None = None,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read `source`, write a dataset to `out`. Nothing in `source` is changed.

    Args:
        source: Folder with images and texts.
        out: Folder that is made, or that an earlier `prepare` made: what is still right in it is kept.
        config: All settings.
        count_tokens: Tokens of a caption without BOS and EOS; None leaves `num_tokens` open.
        console: Takes one line for the user.
        progress: Called with images done and all.

    Raises:
        UserError: The folder cannot be read or written, no image can be used, or with `strict` any cannot.
    """
    job = make_job(source, out, config, count_tokens=count_tokens, console=console, progress=progress)
    with lock_folder(out, console, deep=True):
        return carry_out(job)


class Outcomes(Protocol):
    """What became of the images of a source, from elsewhere.

    Attributes:
        captions: Captions that a captioner wrote.
        no_caption: Why it refused an item, by id.
    """

    captions: Mapping[CaptionKey, str]
    no_caption: Mapping[str, str]

    def check(self, source: Source) -> None:
        """Raise `UserError` unless they are of this source."""
        ...

    def of(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """One outcome for each task, in any order; their files lie where the tasks say."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of `prepare`: its arguments, and what they name.

    Attributes:
        settings: What decides pixels.
        domain, captioner: The extensions in use.
        source, out, config, count_tokens, console, progress: As of `prepare`.
    """

    source: Path
    out: Path
    config: PrepareConfig
    settings: ImageSettings
    domain: Domain
    captioner: Captioner
    count_tokens: Callable[[str], int] | None
    console: Callable[[str], None]
    progress: Progress | None

    def run_tasks(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Prepare images in as many processes as the settings say."""
        workers = 1 if self.settings.upscaler else self.config.num_workers  # its model uses all cores, and memory once
        return run_tasks(tasks, self.settings, workers)

    def read_source(self) -> Source:
        """The items of the source, and a line on their layout; raises as `source.read_source` and `check_captions`."""
        found = read_source(self.source, self.config)
        self.console(f"reading {self.source} as {found.choice.format.name}: {found.choice.reason}")
        if not found.classes:  # the name of a class folder is a caption
            check_captions(found.items, found.leftovers, self.captioner.name)
        return found


def make_job(
    source: Path,
    out: Path,
    config: PrepareConfig,
    *,
    count_tokens: Callable[[str], int] | None = None,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Job:
    """The job of a call; makes the output folder.

    Raises:
        UserError: A setting cannot be used, or `out` cannot be written.
    """
    settings = ImageSettings.from_config(config)
    domain = _configured(plugins.load("domains", config.domain), config)
    captioner: Captioner = plugins.load("captioners", config.captioner)
    check_folders(source, out)
    return Job(
        source=source,
        out=out,
        config=config,
        settings=settings,
        domain=domain,
        captioner=captioner,
        count_tokens=count_tokens,
        console=console,
        progress=progress,
    )


def _configured(domain: Any, config: PrepareConfig) -> Domain:
    """The domain with the values of its own settings, where it declares some."""
    return domain.configured(options_of(config, [domain])) if hasattr(domain, "configured") else domain


def carry_out(job: Job, known: Outcomes | None = None) -> PrepareReport:
    """`prepare` in a locked folder.

    Args:
        job: The call.
        known: What became of the images where that is known; None prepares them.
    """
    started = time.perf_counter()
    source, out, config, domain, captioner, console = (
        job.source,
        job.out,
        job.config,
        job.domain,
        job.captioner,
        job.console,
    )
    found = job.read_source()
    if known:
        known.check(found)
    choice, items, leftovers, given = found.choice, found.items, found.leftovers, found.given
    unused = unused_lines(config, {"formats": choice.format, "captioners": captioner, "domains": domain})
    unused += found.stored.doubts
    sweep(out)
    (out / MANIFEST_FILE).unlink(missing_ok=True)  # a dataset without it is not finished
    with Journal(out / JOURNAL_FILE) as journal:
        work = Work(found, out, config, captioner, job.count_tokens, journal)
        if known:
            work.no_caption |= known.no_caption
            journal.captions.update(known.captions)
        tasks = work.tasks(items)
        work.take(known.of(tasks) if known else job.run_tasks(tasks), len(tasks), job.progress)
        work.group()
        problems, notes = sorted({*work.problems, *leftovers.problems}), sorted([*work.notes, *work.captioned])
        unknown = [*unused, *unknown_ids(given, work.examples), *unsuited_images(domain, out, work.examples)]
        unknown += work.numbers.unknown([item.id for item in items if item.problem is None])
        unknown += found.stored.outdated(work.examples)
        counted = [*found.lines, *found.stored.lines, *leftovers.lines]
        counted += [*work.counted(), *unknown, *unread_lines(journal)]
        write_problems(out, sorted([*problems, *work.left_out]), notes)
        tell_problems(out, problems, leftovers, console)
        for line in counted:
            console(f"  {line}")
        if not work.examples or (config.strict and (problems or unknown or work.changed())):
            raise _unusable(source, out, problems, work, unknown)
        made = {row.image for row in journal.rows.values()}
        journal.compact({example.id for example in work.examples})
    labels, examples = split_examples(work.examples, work.labels, given, config, console)
    manifest = make_manifest(out, examples, _info(source, config, choice, examples, problems))
    _finish(manifest, made)
    once = work.once()
    sizes = Counter(labels[place] for place in once)
    report = PrepareReport(
        manifest=manifest,
        problems=tuple(problems),
        notes=tuple(notes),
        num_reused=work.num_reused,
        num_duplicates=sum(size for size in sizes.values() if size > 1),
        num_without_caption=len(work.without_caption()),
        seconds=time.perf_counter() - started,
        page=out / REPORT_FILE,
    )
    groups = [
        sorted(ids)
        for ids in _by_label([examples[place] for place in once], [labels[place] for place in once])
        if len(ids) > 1
    ]
    write_report(report.page, manifest, problems, notes, groups, work.thumbnails, counted)
    console(_summary(report))
    return report


def _unusable(source: Path, out: Path, problems: Sequence[Problem], work: Work, unknown: Sequence[str]) -> UserError:
    if not work.examples:
        shown = [f"{problem.file}: {problem.reason}" for problem in problems]
        fix = f"all are listed in {out / PROBLEMS_FILE}" if problems else "put images in the folder"
        return UserError(f"no image of {source} can be used", got="; ".join(shown[:3]) or "no images", fix=fix)
    files = f"{len(problems):,} {'file' if len(problems) == 1 else 'files'} cannot be used"
    parts = [*([files] if problems else []), *work.changed(), *unknown]
    first_of_kind: dict[str, str] = {}
    for row in [*problems, *sorted(work.captioned), *sorted(work.notes_on_reading())]:
        first_of_kind.setdefault(row.reason.partition(":")[0], f"{row.file}: {row.reason}")
    shown = list(first_of_kind.values())
    fix = f"all are listed in {out / PROBLEMS_FILE}; leave out --strict to continue"
    return UserError(f"{', '.join(parts)}, and --strict is on", got="; ".join(shown[:3]), fix=fix)


def _by_label(examples: Sequence[Example], labels: Sequence[int]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for example, label in zip(examples, labels, strict=True):
        groups.setdefault(label, []).append(example.id)
    return list(groups.values())


def _info(
    source: Path, config: PrepareConfig, choice: Choice, examples: Sequence[Example], problems: Sequence[Problem]
) -> dict[str, Any]:
    num_validation = sum(example.split == "validation" for example in examples)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source.resolve().name,
        "format": choice.format.name,
        "format_reason": choice.reason,
        "domain": config.domain,
        "trigger": config.trigger,
        "settings": config.model_dump(mode="json"),
        "counts": {
            "images": len(examples),
            "train": len(examples) - num_validation,
            "validation": num_validation,
            "without_caption": sum(example.caption_found is None for example in examples),
            "problems": len(problems),
        },
        "versions": {
            "loraloom": __version__,
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
    }


def _finish(manifest: Manifest, made: set[str]) -> None:
    """Write the manifest, then remove images that earlier runs made and that are in it no more."""
    folder = manifest.folder
    for directory in sorted({(folder / example.image).parent for example in manifest.examples}):
        fsync_path(directory)
    write_manifest(manifest)
    for image in made - {example.image for example in manifest.examples}:
        (folder / image).unlink(missing_ok=True)
    sweep(folder)


def _summary(report: PrepareReport) -> str:
    manifest = report.manifest
    num_images, num_held = len(manifest.examples), len(manifest.split("validation"))
    parts = [f"{counted(num_images, 'image')} in {report.seconds:.1f} s ({num_images / report.seconds:,.0f} a second)"]
    if report.num_reused:
        parts.append(f"{report.num_reused:,} kept from before")
    parts.append(f"{num_held:,} held out")
    if report.num_duplicates:
        parts.append(f"{report.num_duplicates:,} near-duplicates kept on one side")
    if report.problems:
        parts.append(f"{counted(len(report.problems), 'file')} not used")
    return f"{', '.join(parts)}\nlook at {report.page}"
