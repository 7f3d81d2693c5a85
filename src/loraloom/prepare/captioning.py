"""Write captions for the images of a folder, or edit those that exist; `loraloom caption`.

In: a folder in any layout and `CaptionConfig`. Out: a new version of its captions in `FOLDER/.captions`, which `prepare` reads;
with `write_files` also caption files. Captions written by hand are kept unless `overwrite`. It can be killed at any time: what
is captioned is in a journal, and the same command continues.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom import plugins
from loraloom.config.caption import CaptionConfig
from loraloom.config.describing import leaves
from loraloom.config.extending import options_of, unused_lines
from loraloom.prepare.caption_edits import Edits
from loraloom.prepare.caption_store import CaptionStore, Header, StoredCaption, Version, file_bytes, read_row
from loraloom.prepare.captioner_files import with_model
from loraloom.prepare.detect import choose_format
from loraloom.prepare.images import ImageSettings, decode
from loraloom.prepare.workers import read_image_file
from loraloom.protocols.data import Captioner, SourceItem
from loraloom.protocols.settings import Settings
from loraloom.utils.atomic_files import remove_leftovers, sha256_bytes
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import is_there, read_bytes, read_lines

_HOW = ("caption_device", "caption_dtype")
"""Settings of a model that decide how its captions are computed, and not which."""
_NO_REDUCTION_PX = 1 << 16
_MAX_TEXT_BYTES = 1 << 20
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionReport:
    """What `caption` did.

    Attributes:
        version: The version that now holds; None if nothing was to be done.
        num_written: Images with captions that this call wrote or edited.
        num_reused: Images whose captions an earlier version, or an interrupted run, had.
        problems: Images that have no caption, and why, in id order.
        lines: Counted lines for the user.
    """

    version: Version | None
    num_written: int
    num_reused: int
    problems: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]


def caption_folder(
    folder: Path,
    config: CaptionConfig,
    *,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> CaptionReport:
    """Caption the images of `folder`.

    Args:
        folder: Images in any layout; the images are not changed.
        config: All settings.
        console: Takes one line for the user.
        progress: Called with images done and all.

    Raises:
        UserError: The folder cannot be read, the captioner cannot be used, there is nothing to edit, or with `strict` an
            image has no caption or an edit changes none.
    """
    edits = Edits.from_config(config)
    captioner: Captioner | None = plugins.load("captioners", config.captioner) if config.captioner else None
    if captioner is None and not edits.any:
        fix = "name one with --captioner, or an edit such as --trigger, --prefix or --replace"
        raise UserError("neither a captioner nor an edit is named", expected=_names(), fix=fix)
    options = options_of(config, (plugins.load("formats", name) for name in plugins.names("formats")))
    choice = choose_format(folder, config.format, options)
    console(f"reading {folder} as {choice.format.name}: {choice.reason}")
    found = list(choice.format.read(folder, options))
    items = [item for item in found if item.problem is None]
    if not items:
        raise UserError(f"{folder} has no image that can be captioned", fix="run `loraloom prepare` to see why")
    used: dict[str, Any] = {"formats": choice.format} | ({"captioners": captioner} if captioner else {})
    unused = unused_lines(config, used) + ([] if captioner else _of_no_captioner(config))
    store = CaptionStore(folder)
    with lock_folder(store.place, console):
        remove_leftovers(folder, deep=True, named=True)
        store.finish()
        run = _Run(folder, config, store, captioner, edits, choice.format.name)
        run.problems += [(item.id, item.problem) for item in found if item.problem is not None]
        rows = run.rows(items, progress)
        lines = [*unused, *run.counted(), *edits.unused()]
        for line in lines:
            console(f"  {line}")
        if config.strict and (run.problems or unused or edits.unused()):
            raise _strict(run.problems, [*unused, *edits.unused()])
        if not rows:
            raise UserError(f"no image of {folder} gets a caption", got="; ".join(lines) or None, fix=run.remedy())
        return run.finish(rows, lines)


def _of_no_captioner(config: CaptionConfig) -> list[str]:
    """One line for each setting of a captioner that was given although none is named."""
    lines: dict[str, str] = {}
    for name in plugins.names("captioners"):
        for leaf in leaves(getattr(plugins.load("captioners", name), "settings", Settings)):
            if getattr(config, leaf.key) != leaf.default:
                flag = leaf.flag or leaf.key
                lines.setdefault(leaf.key, f"{flag} is not used: no captioner is named; add --captioner {name}")
    return list(lines.values())


@dataclass(slots=True)
class _Batch:
    """Images to caption together."""

    items: list[SourceItem] = field(default_factory=list[SourceItem])
    sums: list[str] = field(default_factory=list[str])
    images: list[Image.Image] = field(default_factory=list[Image.Image])


class _Run:
    """One call: which images are captioned, what is known of them, and what was counted."""

    def __init__(
        self,
        folder: Path,
        config: CaptionConfig,
        store: CaptionStore,
        captioner: Captioner | None,
        edits: Edits,
        layout: str,
    ) -> None:
        self.folder, self.config, self.store = folder, config, store
        self.captioner, self.edits, self.layout = captioner, edits, layout
        self.options = options_of(config, [captioner]) if captioner else {}
        decides = {key: value for key, value in self.options.items() if key not in _HOW}
        many = config.num_captions if hasattr(captioner, "caption_many") else 1
        trigger = config.trigger if captioner else ""
        self.words = _sha16(config.captioner, decides, trigger, many, config.seed if many > 1 else 0)
        self.edit_print = _sha16(asdict(replace(edits, used=Counter())), config.num_captions, self.words, default=str)
        self.parent = store.current()
        self.problems: list[tuple[str, str]] = []
        self.num_written = self.num_reused = self.num_by_hand = self.num_fewer = self.num_files = 0
        self.by_hand: list[str] = []

    # ------------------------------------------------------------------------------------------------ which images

    def rows(self, items: Sequence[SourceItem], progress: Progress | None) -> dict[str, StoredCaption]:
        """The rows of the new version by id."""
        before = self.parent.rows if self.parent else {}
        rows: dict[str, StoredCaption] = {}
        waiting: list[tuple[SourceItem, str | None]] = []
        for item in items:
            known = before.get(item.id)
            hand = self._hand_written(item, known)
            if hand is not None and not self.config.overwrite and not (known and known.found == hand):
                self.num_by_hand += 1
                self.by_hand.append(item.id)
                continue
            waiting.append((item, hand))
        if self.captioner is None:
            self._edit(waiting, before, rows)
        else:
            self._write(waiting, before, rows, progress)
        for item in items:
            old = before.get(item.id)
            if item.id in rows and (self.config.write_files or (old and old.file)):
                self.num_files += not self.config.write_files
                rows[item.id] = self._with_file(item, rows[item.id], before)
        return rows

    def _hand_written(self, item: SourceItem, known: StoredCaption | None) -> str | None:
        """The text of an image that a person wrote; None if there is none, or it is what `write_files` wrote."""
        text = (item.caption or "").strip()
        if not text or (known and known.file and text == known.captions[0].strip()):
            return None if not known else known.found
        return item.caption

    def _edit(
        self,
        waiting: Sequence[tuple[SourceItem, str | None]],
        before: dict[str, StoredCaption],
        rows: dict[str, StoredCaption],
    ) -> None:
        """Edit the captions that exist."""
        for item, hand in waiting:
            known = before.get(item.id)
            texts = known.captions if known else (hand.strip(),) if hand and hand.strip() else ()
            if not texts:
                self.problems.append((item.id, "there is none to edit, and no --captioner is named"))
                continue
            sha256 = known.sha256 if known else sha256_bytes(self._bytes(item) or b"")
            self._put(rows, item, hand, sha256, texts)

    def _write(
        self,
        waiting: Sequence[tuple[SourceItem, str | None]],
        before: dict[str, StoredCaption],
        rows: dict[str, StoredCaption],
        progress: Progress | None,
    ) -> None:
        """Caption what neither the current version nor the journal has."""
        assert self.captioner is not None
        hands = {item.id: hand for item, hand in waiting}
        known = dict(before) if self.parent and self.parent.header.words == self.words else {}
        journal = self.store.place / f"unfinished-{self.words}.jsonl"
        known |= _read_journal(journal)
        done = 0
        with journal.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n")  # ends a line that a kill cut short
            for batch in self._batches([item for item, _ in waiting], known, rows, hands):
                for item, sha256, texts in zip(batch.items, batch.sums, self._ask(batch), strict=True):
                    if not texts:
                        continue
                    row = StoredCaption(id=item.id, sha256=sha256, raw=texts, captions=texts)
                    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                    self._put(rows, item, hands[item.id], sha256, texts)
                file.flush()
                done = len(rows) + len(self.problems)
                if progress:
                    progress(done, len(waiting))

    def _batches(
        self,
        items: Sequence[SourceItem],
        known: dict[str, StoredCaption],
        rows: dict[str, StoredCaption],
        hands: dict[str, str | None],
    ) -> Iterator[_Batch]:
        """Images that have to be captioned; those that are known become rows at once."""
        size = self.config.batch_size if hasattr(self.captioner, "caption_many") else 1
        options: dict[str, Any] | None = None
        batch = _Batch()
        for item in items:
            data = self._bytes(item)
            if data is None:
                continue
            sha256, row = sha256_bytes(data), known.get(item.id)
            if row is not None and row.sha256 == sha256 and row.raw:
                self._put(rows, item, hands[item.id], sha256, row.raw, reused=True)
                continue
            if options is None:  # the model is resolved when the first image needs it
                assert self.captioner is not None
                options = self.options = with_model(self.captioner, self.options)
            if (image := self._decoded(item, data)) is None:
                continue
            batch.items.append(item)
            batch.sums.append(sha256)
            batch.images.append(image)
            if len(batch.items) == size:
                yield batch
                batch = _Batch()
        if batch.items:
            yield batch

    # ------------------------------------------------------------------------------------------------ one batch

    def _ask(self, batch: _Batch) -> list[tuple[str, ...]]:
        """The captioner's texts about each image; none where it refuses an image."""
        captioner: Any = self.captioner
        config = self.config
        answers: list[tuple[str, ...]] = []
        if hasattr(captioner, "caption_many"):
            answers = captioner.caption_many(
                batch.images, batch.items, self.options, config.trigger, config.num_captions, config.seed
            )
        else:
            for image, item in zip(batch.images, batch.items, strict=True):
                try:
                    text = captioner.caption(image, item, self.options, config.trigger).strip()
                except RefusedError as error:
                    text, reason = "", str(error)
                    self.problems.append((item.id, reason))
                answers.append((text,) if text else ())
        refused = {item_id for item_id, _ in self.problems}
        for item, answer in zip(batch.items, answers, strict=True):
            if not answer and item.id not in refused:
                self.problems.append((item.id, f"{config.captioner} writes nothing about it"))
        return answers

    def _bytes(self, item: SourceItem) -> bytes | None:
        try:
            return read_image_file(item.image, self.config.max_megapixels, item.data)
        except RefusedError as error:
            self.problems.append((item.id, str(error)))
            return None

    def _decoded(self, item: SourceItem, data: bytes) -> Image.Image | None:
        side = int(getattr(self.captioner, "max_side_px", _NO_REDUCTION_PX))
        try:
            image = decode(data, _decoding(self.config.max_megapixels, side)).image
        except RefusedError as error:
            self.problems.append((item.id, str(error)))
            return None
        if max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.BICUBIC)
        return image

    def _put(
        self,
        rows: dict[str, StoredCaption],
        item: SourceItem,
        hand: str | None,
        sha256: str,
        texts: Sequence[str],
        *,
        reused: bool = False,
    ) -> None:
        captions = self.edits.all_of(texts, item.id, self.config.num_captions)
        if not captions:
            self.problems.append((item.id, "the edits leave nothing of its caption"))
            return
        self.num_fewer += len(captions) < self.config.num_captions
        self.num_reused += reused
        self.num_written += not reused
        rows[item.id] = StoredCaption(id=item.id, sha256=sha256, raw=tuple(texts), captions=captions, found=hand)

    def _with_file(self, item: SourceItem, row: StoredCaption, before: dict[str, StoredCaption]) -> StoredCaption:
        """The row with the file that its first caption is written to; what lies there now is kept."""
        path = item.source or item.image.with_suffix(".txt")
        if self.layout != "sidecar":
            fix = "leave out --write-files: `loraloom prepare` reads the captions from .captions"
            raise UserError("captions of this layout are not in files beside the images", got=self.layout, fix=fix)
        name, old = path.relative_to(self.folder).as_posix(), before.get(item.id)
        kept = old.kept if old and old.file == name else None
        if is_there(path):
            data = read_bytes(path, name, max_bytes=_MAX_TEXT_BYTES)
            if not (old and old.file == name and sha256_bytes(data) == old.file_sha256):
                kept = self.store.keep(data)
        return replace(row, file=name, file_sha256=sha256_bytes(file_bytes(row.captions)), kept=kept)

    # ------------------------------------------------------------------------------------------------ the end

    def counted(self) -> list[str]:
        """Counted lines for the user."""
        lines: list[str] = []
        if self.num_by_hand:
            lines.append(
                f"{counted(self.num_by_hand, 'caption')} written by hand: kept; --overwrite replaces them: "
                f"{', '.join(self.by_hand[:_SHOWN])}"
            )
        for reason, number in Counter(reason for _, reason in self.problems).most_common():
            first = next(item_id for item_id, other in self.problems if other == reason)
            lines.append(f"{counted(number, 'image')} without a caption: {reason}: {first}")
        if self.num_fewer and self.config.num_captions > 1:
            lines.append(
                f"{counted(self.num_fewer, 'image')} with fewer than {self.config.num_captions} different captions"
            )
        if self.num_files:
            lines.append(f"{counted(self.num_files, 'caption file')} of an earlier version: written anew")
        if number := self.edits.used["trigger"]:
            lines.append(f"{counted(number, 'caption')} with the trigger inside a sentence: it stays there")
        return lines

    def remedy(self) -> str:
        """What to do when nothing was captioned."""
        if self.num_by_hand:
            return "add --overwrite to replace captions written by hand"
        return "look at the reasons above" if self.captioner else f"add --captioner: {_names()}"

    def finish(self, rows: dict[str, StoredCaption], lines: Sequence[str]) -> CaptionReport:
        """Write the version and make it current, unless the current one is equal."""
        problems = tuple(sorted(self.problems))
        if self.parent and self.parent.header.edits == self.edit_print and self._is_same(rows):
            return CaptionReport(
                version=None, num_written=0, num_reused=len(rows), problems=problems, lines=tuple(lines)
            )
        header = Header(
            version=self.store.next_number(),
            parent=self.parent.header.version if self.parent else 0,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            captioner=self.config.captioner,
            summary=self._summary(len(rows)),
            words=self.words,
            edits=self.edit_print,
        )
        version = Version(header, rows)
        self.store.add(header, rows.values())
        self.store.use(header.version)
        (self.store.place / f"unfinished-{self.words}.jsonl").unlink(missing_ok=True)
        return CaptionReport(
            version=version,
            num_written=self.num_written,
            num_reused=self.num_reused,
            problems=problems,
            lines=tuple(lines),
        )

    def _is_same(self, rows: dict[str, StoredCaption]) -> bool:
        """Whether the current version has these rows; an edit of its own captions is not made twice."""
        assert self.parent is not None
        old = self.parent.rows
        if self.captioner is None:
            return old.keys() == rows.keys()
        return {key: (row.sha256, row.captions, row.file) for key, row in rows.items()} == {
            key: (row.sha256, row.captions, row.file) for key, row in old.items()
        }

    def _summary(self, number: int) -> str:
        config = self.config
        model = (
            str(self.config.model_dump().get("caption_model") or "") if hasattr(self.captioner, "caption_many") else ""
        )
        parts = [f"{config.captioner or 'edited'}{f' ({model})' if model else ''}: {counted(number, 'image')}"]
        parts += [f"trigger {config.trigger!r}"] if config.trigger else []
        parts += [f"replace {', '.join(config.replace)}"] if config.replace else []
        named = {"prefix": config.prefix, "suffix": config.suffix, "wildcards": config.wildcards}
        parts += [f"{name} {value!r}" for name, value in named.items() if value]
        flags = {
            "tags shuffled": config.shuffle_tags,
            "overwrite": config.overwrite,
            "files written": config.write_files,
            f"{config.num_captions} captions an image": config.num_captions > 1,
        }
        return ", ".join([*parts, *(name for name, on in flags.items() if on)])


def _read_journal(path: Path) -> dict[str, StoredCaption]:
    """The rows of an interrupted run; a line that a kill cut short is passed over: its image is captioned again."""
    found: dict[str, StoredCaption] = {}
    if is_there(path):
        for number, line in read_lines(path, path.name):
            try:
                row = read_row(line, f"{path.name} line {number}")
            except UserError:
                continue
            found[row.id] = row
    return found


def _decoding(max_megapixels: float, side: int) -> ImageSettings:
    """How images are decoded to be looked at: upright RGB, transparent pixels white."""
    return ImageSettings(
        size=side,
        crop="pad",
        bucket_step=0,
        max_aspect=0.0,
        resample="nearest" if side == _NO_REDUCTION_PX else "bicubic",
        background=(255, 255, 255),
        min_size=1,
        max_megapixels=max_megapixels,
        seed=0,
    )


def _strict(problems: Sequence[tuple[str, str]], lines: Sequence[str]) -> UserError:
    parts = [f"{counted(len(problems), 'image')} without a caption"] if problems else []
    shown = "; ".join(f"{item_id}: {reason}" for item_id, reason in problems[:_SHOWN])
    what = ", ".join([*parts, *lines])
    return UserError(f"{what}, and --strict is on", got=shown or None, fix="leave out --strict to continue")


def _names() -> str:
    return "one of " + ", ".join(plugins.names("captioners"))


def _sha16(*values: Any, default: Callable[[Any], Any] | None = None) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=default).encode()).hexdigest()[:16]
