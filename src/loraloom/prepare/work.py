"""From outcomes of single images to the rows of a dataset: captions, repeats, problems, notes and near-duplicates.

In: the items of a source and what became of each image. Out: examples in id order, and all that is said about the others.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loraloom.config.extending import options_of
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.caption_edits import final_caption
from loraloom.prepare.captioner_files import Asker
from loraloom.prepare.deduplicate import duplicates_of
from loraloom.prepare.doubtful import doubt_about
from loraloom.prepare.duplicates import near_duplicate_groups
from loraloom.prepare.folder_numbers import FolderNumbers
from loraloom.prepare.folders import IMAGE_FOLDER
from loraloom.prepare.images import QUALITY_NOTES
from loraloom.prepare.journal import ImageRow, Journal
from loraloom.prepare.lines import no_caption, to_look_at
from loraloom.prepare.report import Problem
from loraloom.prepare.source import Source
from loraloom.prepare.workers import Outcome, Task
from loraloom.protocols.data import Captioner, Example, SourceItem
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.progress import Progress
from loraloom.utils.safe_paths import safe_name, short_hash

MAX_THUMBNAILS = 200


class Work:
    """One run over the items: it turns outcomes into examples, problems and notes, and notes them in the journal.

    Attributes:
        examples: Rows of the dataset; `group` sorts them by id.
        items: Id of the source item of each.
        labels: Near-duplicate group of each, after `group`.
        no_caption: Why the captioner refused an item, by id.
    """

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
        self.usable: dict[str, SourceItem] = {}
        self.too_small: Counter[int] = Counter()
        self.no_caption: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.captioned: list[Problem] = []
        self.thumbnails: dict[str, bytes] = {}
        self.num_reused = 0

    def tasks(self, items: Sequence[SourceItem]) -> list[Task]:
        """The tasks of all items that can be used; the others are problems."""
        self.problems += [Problem(self._shown(item), item.problem) for item in items if item.problem]
        self.usable = {item.id: item for item in items if item.problem is None}
        return list(make_tasks(self.usable, self.out, self.journal.rows, self.numbers.sizes_of))

    def take(self, outcomes: Generator[Outcome, None, None], number: int, progress: Progress | None) -> None:
        """Take the outcomes of `number` tasks as they come."""
        for _ in self.seen(outcomes, number, progress):
            pass

    def seen(
        self, outcomes: Generator[Outcome, None, None], number: int, progress: Progress | None
    ) -> Iterator[Outcome]:
        """The outcomes, each after it was taken."""
        with closing(outcomes):
            for done, outcome in enumerate(outcomes, start=1):
                self._take(outcome, self.usable[outcome.task.item])
                if progress:
                    progress(done, number)
                yield outcome

    def group(self) -> None:
        """When all are taken: put the examples in id order, and leave out those that are duplicates."""
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
            self.no_caption[item.id] = str(error)
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
                batch_size=self.numbers.batch_size_of(item.id),
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
            asked = sum(size in self.numbers.sizes_of(item)[1:] for item in set(self.items))
            flag = "--also-size" if size in self.config.also_size else "--size-of"
            lines.append(f"{number:,} of {asked:,} images are not prepared at {flag} {size}: too small")
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
        if item.id in self.no_caption:
            raise RefusedError(self.no_caption[item.id])
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


def make_tasks(
    items: Mapping[str, SourceItem], out: Path, known: Mapping[str, ImageRow], sizes_of: Callable[[str], Sequence[int]]
) -> Iterator[Task]:
    """One task for each image and size, numbered by the place of its item."""
    taken: set[str] = set()
    for number, item in enumerate(items.values()):
        side, *further = sizes_of(item.id)
        for size in (None, *further):
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
                number=number,
                size=size,
                side=side,
                data=item.data,
            )


def _sha16(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
