"""Class folders as kohya's scripts name them: `10_sks dog` is shown ten times an epoch, and its name captions what has no text.

In: ids of source items. Out: number of repeats and class name of each, and whether a folder is laid out so.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from loraloom.utils.counted import counted

CLASS_FOLDER = re.compile(r"(\d{1,6})_(\S.*)", re.DOTALL)
MOST_REPEATS = 500
"""`2023_holiday` is a year and no class folder."""


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder's name, its repeats (1 or more), and the class that it names."""

    folder: str
    repeats: int
    name: str


def class_folder(item_id: str) -> ClassFolder | None:
    """The outermost class folder in an id's path; None when no folder in it is named so."""
    for folder in item_id.split("/")[:-1]:
        match = CLASS_FOLDER.fullmatch(folder)
        if match and 1 <= int(match[1]) <= MOST_REPEATS:
            return ClassFolder(folder, int(match[1]), match[2].strip())
    return None


def class_folders(ids: Iterable[str], wish: Literal["auto", "on", "off"]) -> tuple[dict[str, ClassFolder], list[str]]:
    """The class folder of each id that has one, and lines for the user.

    `auto` takes folders for class folders when every image lies in one, as kohya's scripts expect it.
    """
    listed = list(ids)
    found = {id_: folder for id_ in listed if (folder := class_folder(id_)) is not None}
    if not found or wish == "off":
        return {}, []
    if wish == "auto" and len(found) < len(listed):
        return {}, [
            f"{len(found):,} of {len(listed):,} images lie in folders that are named like class folders "
            f"({next(iter(found.values())).folder!r}); they are not repeated: --class-folders on reads them so"
        ]
    numbers = Counter(folder for folder in found.values())
    shown = [f"{folder.folder!r}: {counted(number, 'image')} x {folder.repeats}" for folder, number in numbers.items()]
    more = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
    return found, [f"class folders: {', '.join(shown[:5])}{more}; --class-folders off reads them as plain folders"]
