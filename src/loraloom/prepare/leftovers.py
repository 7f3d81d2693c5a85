"""Account for every file of a source folder: what no item of its layout names is listed with a reason.

In: the folder and the items that a `Format` found. Out: a row for each file that is not read, lines for the terminal, and
which of the files look like captions. So a layout, whoever wrote it, cannot lose a file without a word.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loraloom.prepare.caption_store import STORE
from loraloom.prepare.duplicates import SPLITS_FILE
from loraloom.prepare.near_names import ImageNames, added_ending, folder_flags, is_note_name
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
    near_table_name,
    walk,
)

_MOST_HINTS = 5
_MOST_COMPARED = 20
_SHOWN_PAIRS = 3
_USUAL_SUFFIXES = (".txt", ".caption")
_EMPTY_TABLE = "it is read, and no row of it has a caption: name another column with --caption-column"
_EMPTY_TEXT = "it is read, and it is empty: write the caption into it"
_NEAR_NAME = "its name is nearly that of an image: rename it as the image"
_STRANGER = "no image has its name: rename it as its image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Files that are not read.

    Attributes:
        problems: One row a file, with the reason.
        lines: The same, counted, for terminal and report.
        captions: Rows of the files that look like captions and are none, the one with the plainest remedy first.
        pairs: The first of those whose names are nearly that of an image: `img-0.txt for IMG_0.jpg?`.
        num_images: Images of the folder, masks not counted.
    """

    problems: tuple[Problem, ...]
    lines: tuple[str, ...]
    captions: tuple[Problem, ...]
    pairs: tuple[str, ...]
    num_images: int


def find_leftovers(source: Path, items: Sequence[SourceItem], layout: str) -> Leftovers:
    """Compare what lies in `source` with what the items of the layout name."""
    claimed = {path for item in items for path in (item.image, item.source) if path is not None}
    claimed |= {target for path in claimed if path.is_symlink() and (target := _target(path)) is not None}
    claimed |= {source / SPLITS_FILE, source / STORE}
    entries = walk(source)
    real = source.resolve()
    left = [entry for entry in entries if entry.path not in claimed and real / entry.name not in claimed]
    masks = find_masks(entries)
    names = ImageNames(entry.name for entry in entries if entry.is_image and entry.name not in masks)
    problems: list[Problem] = []
    hints: list[str] = []
    for entry in left:
        if entry.system:
            continue
        problems.append(Problem(entry.name, reason := _reason(entry, masks, names, layout)))
        if near_table_name(entry.name) and len(hints) < _MOST_HINTS:
            hints.append(f"{entry.name} is {reason}")
    system = Counter(entry.problem for entry in left if entry.system)
    lines = [f"not read: {_by_suffix(problems)}"] if problems else []
    if system:
        lines.append(
            "passed over: " + ", ".join(f"{number:,} x {kind}" for kind, number in sorted(system.items(), key=str))
        )
    unread = [(entry, problem) for entry, problem in _unread(entries, left, items) if not entry.system]
    bare = _without_caption(entries, items, masks)
    captions, pairs = _caption_files(unread, names, bare, layout)
    if pairs and bare.number < names.number:
        hints.append(f"a text has the name of its image: {' '.join(pairs)}")
    captions += [Problem(_below(path, source), _EMPTY_TABLE) for path in _sources(items) if _is_table_file(path)]
    captions += [Problem(_below(path, source), _EMPTY_TEXT) for path in _sources(items) if not _is_table_file(path)]
    return Leftovers(
        problems=tuple(problems),
        lines=tuple(lines + hints),
        captions=tuple(captions),
        pairs=tuple(pairs),
        num_images=names.number,
    )


def _target(link: Path) -> Path | None:
    """The file that a link leads to; None for a loop of links."""
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # RuntimeError before Python 3.13
        return None


def check_captions(items: Sequence[SourceItem], leftovers: Leftovers, captioner: str) -> None:
    """Refuse a folder whose captions are all missed, while files lie there that look like captions.

    Args:
        items: What the layout found.
        leftovers: What it did not.
        captioner: Name of what writes the captions that are missing.

    Raises:
        UserError: No usable item has a caption, and such files exist.
    """
    usable = [item for item in items if item.problem is None]
    if not leftovers.captions or any((item.caption or "").strip() for item in usable):
        return
    if not usable and not leftovers.pairs:
        return  # the images' own problems say more
    first, number = leftovers.captions[0], len(usable) or leftovers.num_images
    more = f" and {len(leftovers.captions) - 1:,} more" if len(leftovers.captions) > 1 else ""
    remedy = f"{first.file}: {first.reason}"
    if leftovers.pairs and first.reason == _NEAR_NAME:
        remedy = f"a text has the name of its image: rename {' '.join(leftovers.pairs)}"
    none = f"none of {number:,} images has a caption" if number > 1 else "the only image has no caption"
    if usable:
        remedy += f"\n  or move such files away: then {captioner!r} captions every image"
    one = len(leftovers.captions) == 1
    raise UserError(
        f"{none}, and there {'is a file that looks like a caption' if one else 'are files that look like captions'}",
        got=f"{first.file}{more}",
        fix=remedy,
    )


def _unread(
    entries: Sequence[Entry], left: Sequence[Entry], items: Sequence[SourceItem]
) -> list[tuple[Entry, str | None]]:
    """Files that no caption was read from: those that no item names, and those that an item with a problem is about.

    The second kind is named by the layout, such as a text without an image. That it is named makes it no caption.
    """
    about = {item.image: item.problem for item in items if item.problem is not None}
    read = {item.source for item in items if item.problem is None}
    orphans = [entry for entry in entries if entry.path in about and entry.path not in read and not entry.is_image]
    return [*((entry, None) for entry in left), *((entry, about[entry.path]) for entry in orphans)]


def _without_caption(entries: Sequence[Entry], items: Sequence[SourceItem], masks: set[str]) -> ImageNames:
    """The images that no caption was found for."""
    captioned = {item.image for item in items if item.problem is None and (item.caption or "").strip()}
    return ImageNames(
        entry.name for entry in entries if entry.is_image and entry.name not in masks and entry.path not in captioned
    )


def _caption_files(
    unread: Sequence[tuple[Entry, str | None]], names: ImageNames, bare: ImageNames, layout: str
) -> tuple[list[Problem], list[str]]:
    """Unread files that look like captions, those with the plainest remedy first; and the nearly equal names.

    Args:
        unread: Each with what its layout says of it.
        names: All images.
        bare: The images without a caption.
        layout: Layout of the folder.
    """
    exact: list[Problem] = []
    near: list[Problem] = []
    pairs: list[str] = []
    strangers: list[Entry] = []
    for entry, problem in unread:
        if _caption_like(entry, names):
            exact.append(Problem(entry.name, problem or _reason(entry, set(), names, layout)))
        elif (image := bare.near(entry.name)) and _may_be_caption(entry):
            near.append(Problem(entry.name, _NEAR_NAME))
            pairs.append(f"{entry.name} for {image}?")
        elif entry.is_text and entry.suffix != ".md" and not entry.problem and not is_note_name(entry.name):
            strangers.append(entry)
    if not pairs:
        alike = ((entry, bare.similar(entry.name)) for entry in strangers[:_MOST_COMPARED])
        pairs = [f"{entry.name} for {image}?" for entry, image in alike if image]
    if pairs or (len(strangers) > 1 and 2 * len(strangers) >= bare.number):
        near += [Problem(entry.name, _NEAR_NAME if pairs else _STRANGER) for entry in strangers]
    longer = [Problem(entry.name, ending) for entry in strangers if (ending := _longer_ending(entry, bare))]
    return exact + longer + near, pairs[:_SHOWN_PAIRS]


def _longer_ending(entry: Entry, bare: ImageNames) -> str | None:
    """The remedy for a text whose name is an image's and a word, such as `a_caption.txt`."""
    image = bare.longer(entry.name)
    ending = added_ending(entry.name, image) if image else None
    return f"its name is that of {image} and more: add --caption-suffix {ending}" if ending else None


def _sources(items: Sequence[SourceItem]) -> list[Path]:
    """Files that captions were looked up in."""
    return sorted({item.source for item in items if item.source is not None and item.problem is None})


def _is_table_file(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES


def _below(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name


def _is_table_name(entry: Entry) -> bool:
    return PurePosixPath(entry.name).name.casefold() in TABLE_NAMES


def _caption_like(entry: Entry, names: ImageNames) -> bool:
    """Whether it is a table, or a text that has the name of an image."""
    if entry.name.endswith("/") or entry.is_image or is_known_other(entry.suffix):
        return False
    if near_table_name(entry.name) or _is_table_name(entry):
        return True
    return names.exact(entry.name) is not None and _may_be_caption(entry)


def _may_be_caption(entry: Entry) -> bool:
    """Whether it is a text by its first bytes, whatever its name."""
    if entry.name.endswith("/") or entry.is_image or is_known_other(entry.suffix):
        return False
    if entry.problem:  # a FIFO must not be opened
        return entry.is_text
    return b"\0" not in first_bytes(entry.path)


def _reason(entry: Entry, masks: set[str], names: ImageNames, layout: str) -> str:
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
    if not _caption_like(entry, names):
        return "a text of no image" if entry.is_text else f"not read: {entry.kind}"
    if entry.is_table:
        return "not read: it looks like a record of an image; write its caption to a .txt of the image's name"
    image = names.exact(entry.name)
    suffix = f"--caption-suffix {entry.suffix or PurePosixPath(entry.name).name}"
    if image and (folders := folder_flags(entry.name, image)):
        more = "" if entry.suffix in _USUAL_SUFFIXES else f" {suffix}"
        return f"not read: it looks like a caption of {image}; add --format paired_folders {folders}{more}"
    if layout != "sidecar":
        return f"not read: it looks like a caption; --format sidecar reads texts beside images, {layout} does not"
    return f"not read: it looks like a caption; add {suffix}"


def _by_suffix(problems: Sequence[Problem]) -> str:
    """`3 .mp4, 1 .cr2, 1 without suffix`."""
    suffixes: Counter[str] = Counter()
    for problem in problems:
        folder = problem.file.endswith("/")
        suffixes["folders" if folder else PurePosixPath(problem.file).suffix.lower() or "without suffix"] += 1
    return ", ".join(f"{number:,} {suffix}" for suffix, number in sorted(suffixes.items(), key=_most_first))


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
