"""A raw folder to a dataset.

In: a folder of images and texts, and `PrepareConfig`. Out: a folder with `manifest.jsonl`, the prepared images,
what was refused and why, and a report to look at. It can be killed at any time; the same command continues.
"""

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from loraloom import __version__, plugins
from loraloom.config.extending import options_of, unused_lines
from loraloom.config.prepare import PrepareConfig
from loraloom.data.manifest import JOURNAL_FILE, MANIFEST_FILE, Manifest, make_manifest, write_manifest
from loraloom.prepare.caption_edits import final_caption
from loraloom.prepare.captioner_files import Asker
from loraloom.prepare.deduplicate import duplicates_of
from loraloom.prepare.detect import Choice
from loraloom.prepare.doubtful import doubt_about
from loraloom.prepare.duplicates import near_duplicate_groups, split_examples
from loraloom.prepare.folder_numbers import FolderNumbers
from loraloom.prepare.folders import IMAGE_FOLDER, check_folders, sweep
from loraloom.prepare.images import QUALITY_NOTES, ImageSettings
from loraloom.prepare.journal import ImageRow, Journal
from loraloom.prepare.leftovers import check_captions
from loraloom.prepare.lines import no_caption, to_look_at, unknown_ids, unread_lines
from loraloom.prepare.problems import PROBLEMS_FILE, tell_problems, write_problems
from loraloom.prepare.report import Problem, write_report
from loraloom.prepare.source import Source, read_source
from loraloom.prepare.suitability import unsuited_images
from loraloom.prepare.workers import Outcome, Task, run_tasks
from loraloom.protocols.data import Captioner, Example, SourceItem
from loraloom.protocols.domain import Domain
from loraloom.utils.atomic_files import fsync_path
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress
from loraloom.utils.safe_paths import safe_name, short_hash

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
    settings = ImageSettings.from_config(config)
    domain = _configured(plugins.load("domains", config.domain), config)
    captioner: Captioner = plugins.load("captioners", config.captioner)
    check_folders(source, out)
    with lock_folder(out, console, deep=True):
        return _prepare(source, out, config, settings, domain, captioner, count_tokens, console, progress)


def _configured(domain: Any, config: PrepareConfig) -> Domain:
    """The domain with the values of its own settings, where it declares some."""
    return domain.configured(options_of(config, [domain])) if hasattr(domain, "configured") else domain


def _prepare(
    source: Path,
    out: Path,
    config: PrepareConfig,
    settings: ImageSettings,
    domain: Domain,
    captioner: Captioner,
    count_tokens: Callable[[str], int] | None,
    console: Callable[[str], None],
    progress: Progress | None,
) -> PrepareReport:
    """`prepare` in a locked folder."""
    started = time.perf_counter()
    found = read_source(source, config)
    choice, items, leftovers, given = found.choice, found.items, found.leftovers, found.given
    console(f"reading {source} as {choice.format.name}: {choice.reason}")
    if not found.classes:  # the name of a class folder is a caption
        check_captions(items, leftovers, captioner.name)
    unused = unused_lines(config, {"formats": choice.format, "captioners": captioner, "domains": domain})
    unused += found.stored.doubts
    sweep(out)
    (out / MANIFEST_FILE).unlink(missing_ok=True)  # a dataset without it is not finished
    with Journal(out / JOURNAL_FILE) as journal:
        work = _Work(found, out, config, captioner, count_tokens, journal)
        work.run(items, settings, progress)
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


class _Work:
    """One run over the items: it turns outcomes into examples, problems and notes, and notes them in the journal."""

    def __init__(
        self,
        source: Source,
        out: Path,
        config: PrepareConfig,
        captioner: Captioner,
        count_tokens: Callable[[str], int] | None,
        journal: Journal,
    ) -> None:
        self.source, self.out, self.config, self.journal = source, out, config, journal
        self.captioner, self.count_tokens = captioner, count_tokens
        self.numbers = FolderNumbers.of(config, source.classes)
        options = options_of(config, [captioner])
        self.asker = Asker(captioner, options, config.trigger)
        self.caption_settings = _sha16(captioner.name, options, config.trigger)
        self.examples: list[Example] = []
        self.items: list[str] = []
        self.hashes: list[tuple[int, ...]] = []
        self.labels: list[int] = []
        self.left_out: list[Problem] = []
        self.shown_of: dict[str, str] = {}
        self.too_small: Counter[int] = Counter()
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.captioned: list[Problem] = []
        self.thumbnails: dict[str, bytes] = {}
        self.num_reused = 0

    def run(self, items: Sequence[SourceItem], settings: ImageSettings, progress: Progress | None) -> None:
        """Work on all items; afterwards the examples are in id order, and those that are duplicates are left out."""
        usable = {item.id: item for item in items if item.problem is None}
        self.problems += [Problem(self._shown(item), item.problem) for item in items if item.problem]
        tasks = list(_tasks(usable, self.out, self.journal.rows, self.config.also_size))
        workers = 1 if settings.upscaler else self.config.num_workers  # its model uses all cores, and memory once
        with closing(run_tasks(tasks, settings, workers)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                self._take(outcome, usable[outcome.task.item])
                if progress:
                    progress(done, len(tasks))
        self._keep(sorted(range(len(self.examples)), key=lambda index: self.examples[index].id))
        self._group()

    def _keep(self, places: Sequence[int]) -> None:
        self.examples = [self.examples[place] for place in places]
        self.items = [self.items[place] for place in places]
        self.hashes = [self.hashes[place] for place in places]

    def _group(self) -> None:
        """Find near-duplicates, and leave out those that the settings leave out, at every size."""
        if not self.items:
            return
        first = {self.items[place]: place for place in self.once()}
        hashes = np.array([self.hashes[place] for place in first.values()], dtype=np.uint64)
        groups = near_duplicate_groups(hashes, self.config.near_duplicate_bits).tolist()
        by_item = dict(zip(first, groups, strict=True))
        dropped = duplicates_of([self.examples[place] for place in first.values()], groups, self.config.duplicates)
        items = list(first)
        for place, best in dropped.items():
            kind = "a copy" if self.config.duplicates == "exact" else "a near-duplicate"
            reason = f"{kind} of {items[best]}: left out by --duplicates {self.config.duplicates}"
            self.left_out.append(Problem(self.shown_of[items[place]], reason))
        gone = {items[place] for place in dropped}
        self._keep([place for place, item in enumerate(self.items) if item not in gone])
        self.labels = [by_item[item] for item in self.items]

    def _take(self, outcome: Outcome, item: SourceItem) -> None:
        row, size = outcome.row, outcome.task.size
        if outcome.too_small and size:
            self.too_small[size] += 1
            return
        if row is None:
            if size:  # what is wrong with the file is said once
                return
            self.problems.append(Problem(self._shown(item), outcome.problem or "refused"))
            return
        if not outcome.reused:
            self.journal.add_row(row)
        self.num_reused += outcome.reused
        doubt = doubt_about(item.caption) if item.caption else None
        if not size:
            self.notes += [
                Problem(self._shown(item), note) for note in (*item.notes, *row.notes, *([doubt] if doubt else []))
            ]
        try:
            caption = self._caption(item, row, first=not size)
        except RefusedError as error:  # of the captioner
            self.problems += [] if size else [Problem(self._shown(item), f"no caption: {error}")]
            return
        if not caption:
            self.problems += [] if size else [Problem(self._shown(item), "its caption is empty")]
            return
        if not (item.caption or "").strip() and not size:
            self.captioned.append(Problem(self._shown(item), f"no caption: it gets {caption!r}"))
        self.hashes.append(row.hashes)
        self.items.append(item.id)
        self.shown_of[item.id] = self._shown(item)
        if outcome.thumbnail:
            self.thumbnails[row.id] = outcome.thumbnail
        self.examples.append(
            Example(
                id=row.id,
                image=row.image,
                caption=caption,
                caption_found=item.caption if (item.caption or "").strip() else None,
                split="train",
                width=row.width,
                height=row.height,
                sha256=row.sha256,
                source_sha256=row.source_sha256,
                source_width=row.source_width,
                source_height=row.source_height,
                crop=row.crop,
                scale=row.scale,
                num_tokens=self.count_tokens(caption) if self.count_tokens else None,
                repeats=self.numbers.repeats_of(item.id),
                weight=self.numbers.weight_of(item.id),
                more_captions=tuple(map(self._final, item.more_captions)),
            )
        )

    def without_caption(self) -> list[Example]:
        """Examples for which no text was found, each image once."""
        return [self.examples[place] for place in self.once() if self.examples[place].caption_found is None]

    def once(self) -> list[int]:
        """Places of the examples without the further sizes of an image."""
        places: dict[str, int] = {}
        for place, item in enumerate(self.items):
            places.setdefault(item, place)
        return list(places.values())

    def notes_on_reading(self) -> list[Problem]:
        """Notes on what was read in another way than it is written; those on the quality of images are left out."""
        return [note for note in self.notes if not note.reason.startswith(QUALITY_NOTES)]

    def changed(self) -> list[str]:
        """What `strict` refuses beside files that are not used: one line for each kind."""
        missing, read = self.without_caption(), self.notes_on_reading()
        lines = [no_caption(len(missing), len(self.once()))] if missing else []
        return lines + ([to_look_at(read)] if read else [])

    def counted(self) -> list[str]:
        """Lines for terminal and report: images without a caption, and images to look at."""
        lines: list[str] = []
        if missing := self.without_caption():
            captions = {example.caption for example in missing}
            such = "" if len(captions) == 1 else "captions such as "
            number = no_caption(len(missing), len(self.once()))
            lines.append(f"{number}; {'it gets' if len(missing) == 1 else 'they get'} {such}{missing[0].caption!r}")
        if self.notes:
            reasons = Counter(note.reason.partition(":")[0] for note in self.notes)
            listed = "; ".join(f"{number:,} x {reason}" for reason, number in reasons.most_common())
            lines.append(f"{to_look_at(self.notes)}: {listed}")
        for size, number in sorted(self.too_small.items()):
            lines.append(
                f"{number:,} of {len(set(self.items)):,} images are not prepared at --also-size {size}: too small"
            )
        if self.left_out:
            which = f"--duplicates {self.config.duplicates}"
            lines.append(f"{len(self.left_out):,} images are left out of the dataset by {which}; the source keeps them")
        return lines

    def _caption(self, item: SourceItem, row: ImageRow, *, first: bool) -> str:
        """The final caption; one whose trigger word was moved to the front is noted at the `first` size."""
        text, trigger = self._text(item, row), self.config.trigger
        if first and any(self._final(one) != final_caption(one, trigger) for one in (text, *item.more_captions)):
            self.notes.append(Problem(self._shown(item), "its trigger word was moved to the front of a caption"))
        return self._final(text)

    def _final(self, text: str) -> str:
        return final_caption(text, self.config.trigger, first=self.config.trigger_first)

    def _text(self, item: SourceItem, row: ImageRow) -> str:
        """The text found, or the captioner's."""
        if item.caption is not None:
            if item.caption.strip():
                return item.caption
            self.notes.append(Problem(self._shown(item), f"its text is empty: captioned by {self.captioner.name}"))
        if (folder := self.source.classes.get(item.id)) is not None:
            return folder.name
        key = (item.id, row.source_sha256, self.caption_settings)
        if key not in self.journal.captions:
            with Image.open(self.out / row.image, formats=["PNG"]) as image:
                try:
                    text = self.asker.text(image, item)
                except UserError as error:  # of a captioner that the user may not have named
                    what = (
                        f"{self._shown(item)} has no caption, and {self.captioner.name} cannot write one: {error.what}"
                    )
                    raise UserError(what, got=error.got, expected=error.expected, fix=error.fix) from error
            self.journal.add_caption(key, text)
        return self.journal.captions[key]

    def _shown(self, item: SourceItem) -> str:
        return self.source.shown(item)


def _tasks(
    items: Mapping[str, SourceItem], out: Path, known: Mapping[str, ImageRow], also: Sequence[int]
) -> Iterator[Task]:
    taken: set[str] = set()
    for number, item in enumerate(items.values()):
        for size in (None, *also):
            id_ = item.id if size is None else f"{item.id}@{size}"
            if size is not None and id_ in items:
                raise UserError("an image has the name of another one's further size", got=id_, fix="rename it")
            name = safe_name(id_)
            if name.casefold() in taken:
                name = f"{name}-{short_hash(id_)}"
            taken.add(name.casefold())
            yield Task(
                id=id_,
                source=item.image,
                folder=out,
                image=f"{IMAGE_FOLDER}/{name}.png",
                known=known.get(id_),
                thumbnail=number < MAX_THUMBNAILS,
                item=item.id,
                size=size,
                data=item.data,
            )


def _sha16(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _unusable(source: Path, out: Path, problems: Sequence[Problem], work: _Work, unknown: Sequence[str]) -> UserError:
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
    parts = [f"{num_images:,} images in {report.seconds:.1f} s ({num_images / report.seconds:,.0f} a second)"]
    if report.num_reused:
        parts.append(f"{report.num_reused:,} kept from before")
    parts.append(f"{num_held:,} held out")
    if report.num_duplicates:
        parts.append(f"{report.num_duplicates:,} near-duplicates kept on one side")
    if report.problems:
        parts.append(f"{len(report.problems):,} files not used")
    return f"{', '.join(parts)}\nlook at {report.page}"
