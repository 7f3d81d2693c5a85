"""Read the layout of a raw folder: its items, the files that no item names, and the split that it decides itself.

In: a folder and the settings of `prepare`. Out: a `Source`, which `prepare` and `inspect` share. No image is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.class_folders import ClassFolder, class_folders
from loraloom.prepare.detect import Choice, choose_format, format_options
from loraloom.prepare.duplicates import given_split
from loraloom.prepare.leftovers import Leftovers, find_leftovers
from loraloom.prepare.stored_captions import Applied, with_stored_captions
from loraloom.protocols.data import SourceItem
from loraloom.utils.safe_paths import printable_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A raw folder as it lies there.

    Attributes:
        folder: The folder.
        choice: Its layout, and why.
        items: All items, those with a problem too.
        given: Ids that the source itself holds out; None when it does not say.
        leftovers: Files that no item names.
        classes: The class folder of each usable item that lies in one.
        lines: What is to be said of the class folders.
        stored: The captions that `loraloom caption` wrote; the items have them.
    """

    folder: Path
    choice: Choice
    items: tuple[SourceItem, ...]
    given: frozenset[str] | None
    leftovers: Leftovers
    classes: Mapping[str, ClassFolder]
    lines: tuple[str, ...]
    stored: Applied

    def shown(self, item: SourceItem) -> str:
        """The item's file as the user knows it; an image inside a larger file has its id after it."""
        return shown_below(self.folder, item.image) + (f": {item.id}" if item.data else "")


def read_source(folder: Path, config: PrepareConfig) -> Source:
    """Choose the layout and list what it finds.

    Raises:
        UserError: As `choose_format`, the format's `read` and `given_split`.
    """
    options: dict[str, Any] = format_options(config)
    choice = choose_format(folder, config.format, options)
    stored = with_stored_captions(folder, list(choice.format.read(folder, options)))
    items = tuple(stored.items)
    classes, lines = class_folders((item.id for item in items if item.problem is None), config.class_folders)
    return Source(
        folder=folder,
        choice=choice,
        items=items,
        given=given_split(folder),
        leftovers=find_leftovers(folder, items, choice.format.name),
        classes=classes,
        lines=tuple(lines),
        stored=stored,
    )


def shown_below(folder: Path, path: Path) -> str:
    """A path below a folder, `/` between parts, in letters that can be printed."""
    try:
        shown = path.relative_to(folder).as_posix()
    except ValueError:
        shown = path.name
    return printable_name(shown)
