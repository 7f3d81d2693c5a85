"""What lies in a raw folder, counted by folder and by concept.

In: examinations, captions and class folders. Out: rows for terminal, JSON and page. A concept is the class of a class folder,
else the outermost folder below the source, else the source itself.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from loraloom.prepare.inspection.examine import Examination


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One folder or concept.

    Attributes:
        name: Path below the source, or the concept's name.
        images: Images that can be decoded.
        refused: Files that cannot be used.
        seen: Times that an epoch shows its images, repeats counted.
        captions: Images with a text of their own.
        smallest, median, largest: Shorter side of its images in pixels; 0 without images.
        tokens: Fewest, median and most tokens of its captions; None where they were not counted.
    """

    name: str
    images: int
    refused: int
    seen: int
    captions: int
    smallest: int
    median: int
    largest: int
    tokens: tuple[int, int, int] | None


def concept_of(item_id: str, source_name: str, class_name: str | None) -> str:
    """The concept that an image belongs to."""
    if class_name is not None:
        return class_name
    folder, _, rest = item_id.partition("/")
    return folder if rest else source_name


def folder_of(item_id: str) -> str:
    """The folder of an image below the source; `.` is the source."""
    return item_id.rpartition("/")[0] or "."


def group_rows(
    groups: Mapping[str, str],
    found: Mapping[str, Examination],
    repeats: Mapping[str, int],
    captions: Mapping[str, str | None],
    tokens: Mapping[str, int],
) -> list[GroupRow]:
    """One row for each group, sorted by name.

    Args:
        groups: Id of a source item -> its group.
        found: Id -> the examination of the item.
        repeats: Id -> times that an epoch shows it.
        captions: Id -> the text found.
        tokens: Id -> tokens of its caption; empty where they were not counted.
    """
    members: dict[str, list[Examination]] = {}
    for one in found.values():
        members.setdefault(groups[one.id], []).append(one)
    rows: list[GroupRow] = []
    for name in sorted(members):
        usable = [one for one in members[name] if one.problem is None]
        sides = sorted(min(one.width, one.height) for one in usable)
        counts = sorted(tokens[one.id] for one in usable if one.id in tokens)
        rows.append(
            GroupRow(
                name=name,
                images=len(usable),
                refused=len(members[name]) - len(usable),
                seen=sum(repeats[one.id] for one in usable),
                captions=sum(bool((captions.get(one.id) or "").strip()) for one in usable),
                smallest=sides[0] if sides else 0,
                median=int(statistics.median(sides)) if sides else 0,
                largest=sides[-1] if sides else 0,
                tokens=(counts[0], int(statistics.median(counts)), counts[-1]) if counts else None,
            )
        )
    return rows
