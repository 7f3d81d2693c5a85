"""Account for every file of a source folder: what no item of its layout names is listed with a reason.

In: the folder and the items that a `Format` found. Out: a row for each file that is not read, lines for the terminal, and
which of the files look like captions. So a layout, whoever wrote it, cannot lose a file without a word.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loraloom.prepare.duplicates import SPLITS_FILE
from loraloom.prepare.report import Problem
from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError
from loraloom.utils.listing import (
    TABLE_NAMES,
    TABLE_SUFFIXES,
    Entry,
    find_masks,
    first_bytes,
    is_known_other,
    name_key,
    near_table_name,
    split_name,
    walk,
)

_MOST_HINTS = 5


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Files that are not read.

    Attributes:
        problems: One row a file, with the reason.
        lines: The same, counted, for terminal and report.
        captions: Rows of the files that look like captions: those above, and tables that were read.
    """

    problems: tuple[Problem, ...]
    lines: tuple[str, ...]
    captions: tuple[Problem, ...]


def find_leftovers(source: Path, items: Sequence[SourceItem], layout: str) -> Leftovers:
    """Compare what lies in `source` with what the items of the layout name."""
    claimed = {path for item in items for path in (item.image, item.source) if path is not None}
    claimed |= {path.resolve() for path in claimed if path.is_symlink()}
    claimed.add(source / SPLITS_FILE)
    entries = walk(source)
    real = source.resolve()
    left = [entry for entry in entries if entry.path not in claimed and real / entry.name not in claimed]
    masks = find_masks(entries)
    images = {_last_stem(entry.name) for entry in entries if entry.is_image}
    problems: list[Problem] = []
    empty = "it is read, and no row of it has a caption: name another column with --caption-column"
    captions = [Problem(_below(path, source), empty) for path in _tables(items)]
    hints: list[str] = []
    for entry in left:
        if entry.system:
            continue
        looks, reason = _caption_like(entry, images), _reason(entry, masks, images, layout)
        problems.append(Problem(entry.name, reason))
        if looks:
            captions.append(problems[-1])
        if near_table_name(entry.name) and len(hints) < _MOST_HINTS:
            hints.append(f"{entry.name} is {reason}")
    system = Counter(entry.problem for entry in left if entry.system)
    lines = [f"not read: {_by_suffix(problems)}"] if problems else []
    if system:
        lines.append(
            "passed over: " + ", ".join(f"{number:,} x {kind}" for kind, number in sorted(system.items(), key=str))
        )
    return Leftovers(tuple(problems), tuple(lines + hints), tuple(captions))


def check_captions(items: Sequence[SourceItem], leftovers: Leftovers, captioner: str) -> None:
    """Refuse a folder whose captions are all missed, while files lie there that look like captions.

    Raises:
        UserError: No usable item has a caption, and such files exist.
    """
    usable = [item for item in items if item.problem is None]
    if not usable or not leftovers.captions or any((item.caption or "").strip() for item in usable):
        return
    first = leftovers.captions[-1]  # one that is not read, where there is one
    more = f" and {len(leftovers.captions) - 1:,} more" if len(leftovers.captions) > 1 else ""
    raise UserError(
        f"none of {len(usable):,} images has a caption, and there are files that look like captions",
        got=f"{first.file}{more}",
        fix=f"{first.file}: {first.reason}\n  or move such files away: then {captioner!r} captions every image",
    )


def _tables(items: Sequence[SourceItem]) -> list[Path]:
    """Tables that captions were looked up in. A text beside an image that is empty looks like no caption."""
    sources = {item.source for item in items if item.source is not None and item.problem is None}
    return sorted(path for path in sources if path.suffix.lower() in TABLE_SUFFIXES)


def _below(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name


def _last_stem(name: str) -> str:
    return name_key(split_name(name)[0].rpartition("/")[2]).casefold()


def _belongs_to_image(entry: Entry, images: set[str]) -> bool:
    """Whether its name is an image's with another suffix, or with one more."""
    stem = _last_stem(entry.name)
    return stem in images or _last_stem(stem) in images


def _is_table_name(entry: Entry) -> bool:
    return PurePosixPath(entry.name).name.casefold() in TABLE_NAMES


def _caption_like(entry: Entry, images: set[str]) -> bool:
    if entry.name.endswith("/") or entry.is_image or is_known_other(entry.suffix):
        return False
    if near_table_name(entry.name) or _is_table_name(entry):
        return True
    if entry.problem:  # a FIFO must not be opened
        return entry.is_text and _belongs_to_image(entry, images)
    return _belongs_to_image(entry, images) and b"\0" not in first_bytes(entry.path)


def _reason(entry: Entry, masks: set[str], images: set[str], layout: str) -> str:
    if entry.problem:
        return entry.problem
    if entry.name in masks:
        return "a mask of another image: not learned as an image"
    if entry.is_image:
        return f"an image that the layout {layout} does not name"
    if hint := near_table_name(entry.name):
        return f"not read: {hint}"
    if _is_table_name(entry):
        return f"not read: --format imagefolder reads tables, {layout} does not"
    if not _caption_like(entry, images):
        return "a text of no image" if entry.is_text else f"not read: {entry.kind}"
    if entry.is_table:
        return "not read: it looks like a record of an image; write its caption to a .txt of the image's name"
    if layout != "sidecar":
        return f"not read: it looks like a caption; --format sidecar reads texts beside images, {layout} does not"
    return f"not read: it looks like a caption; add --caption-suffix {entry.suffix or PurePosixPath(entry.name).name}"


def _by_suffix(problems: Sequence[Problem]) -> str:
    """`3 .mp4, 1 .cr2, 1 without suffix`."""
    suffixes: Counter[str] = Counter()
    for problem in problems:
        folder = problem.file.endswith("/")
        suffixes["folders" if folder else PurePosixPath(problem.file).suffix.lower() or "without suffix"] += 1
    return ", ".join(f"{number:,} {suffix}" for suffix, number in sorted(suffixes.items(), key=_most_first))


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
