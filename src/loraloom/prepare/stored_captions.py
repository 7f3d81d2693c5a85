"""Give the images of a folder the captions that `loraloom caption` wrote, before they are prepared.

In: the items of a layout, and the current version in `FOLDER/.captions`. Out: the items with their captions, and counted lines.
A text that was written by hand after that version wins over it, and is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loraloom.prepare.caption_store import STORE, CaptionStore, StoredCaption
from loraloom.protocols.data import Example, SourceItem
from loraloom.utils.counted import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The items with stored captions.

    Attributes:
        items: All items, in their order.
        lines: What was taken from the store, for terminal and report.
        doubts: What `strict` refuses, one line for each kind.
        sums: sha256 of the image file that each used caption was written for, by id.
    """

    items: list[SourceItem]
    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    sums: Mapping[str, str]

    def outdated(self, examples: Iterable[Example]) -> list[str]:
        """A line where images have changed since their captions were written."""
        changed = [row.id for row in examples if self.sums.get(row.id, row.source_sha256) != row.source_sha256]
        return [_counted(changed, "was captioned before it changed", "were captioned before they changed")] * bool(
            changed
        )


def with_stored_captions(source: Path, items: Sequence[SourceItem]) -> Applied:
    """Give the items the captions of the current version.

    Raises:
        UserError: The store is damaged.
    """
    version = CaptionStore(source).current()
    if version is None:
        return Applied(items=list(items), sums={})
    made: list[SourceItem] = []
    replaced: list[str] = []
    newer: list[str] = []
    sums: dict[str, str] = {}
    for item in items:
        row = version.rows.get(item.id)
        if row is None or item.problem is not None:
            made.append(item)
        elif _is_newer(item, row):
            newer.append(item.id)
            made.append(item)
        else:
            if row.found is not None:
                replaced.append(item.id)
            sums[item.id] = row.sha256
            made.append(replace(item, caption=row.captions[0], more_captions=row.captions[1:]))
    header = version.header
    what = header.captioner or "edited"
    lines = [f"captions of {counted(len(sums), 'image')} are those of version {header.version} in {STORE} ({what})"]
    lines += [_counted(replaced, "has its text replaced by them", "have their texts replaced by them")] * bool(replaced)
    doubt = "has a text that is newer than its stored caption: the text is used"
    doubts = [_counted(newer, doubt, doubt.replace("has a text", "have texts").replace("its", "their"))] * bool(newer)
    return Applied(items=made, lines=tuple(lines), doubts=tuple(doubts), sums=sums)


def _is_newer(item: SourceItem, row: StoredCaption) -> bool:
    """Whether the text beside the image is neither what the version replaced nor what it wrote."""
    text = (item.caption or "").strip()
    known = {(row.found or "").strip(), row.captions[0].strip() if row.file else ""}
    return text not in known


def _counted(ids: Sequence[str], one: str, more: str) -> str:
    return f"{counted(len(ids), 'image')} {one if len(ids) == 1 else more}: {', '.join(ids[:3])}"
