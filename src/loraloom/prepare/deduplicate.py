"""Leave duplicates out of a dataset. The source keeps every file.

In: examples, their near-duplicate groups, and what counts as a duplicate. Out: the examples that stay, and a row for each
that is left out with the name of the one that stays for it.
"""

from collections.abc import Sequence
from typing import Literal

from loraloom.protocols.data import Example


def duplicates_of(
    examples: Sequence[Example], labels: Sequence[int], wish: Literal["keep", "exact", "near"]
) -> dict[int, int]:
    """Place of each example that is left out -> place of the one that stays.

    The largest source stays; of equal ones the one with a caption of its own, then the first by id.

    Args:
        examples: Images at one prepared size.
        labels: Near-duplicate group of each.
        wish: `exact`: equal files, or equal pixels; `near`: images of one group; `keep`: none.
    """
    if wish == "keep":
        return {}
    groups: dict[str, list[int]] = {}
    joined: dict[str, str] = {}
    for place, (example, label) in enumerate(zip(examples, labels, strict=True)):
        if wish == "near":
            key = str(label)
        else:  # a file that was copied, or saved once more in a format that keeps its pixels
            file, pixels = example.source_sha256, f"{example.sha256} {example.crop}"
            key = joined.get(file) or joined.get(pixels) or file
            joined[file] = joined[pixels] = key
        groups.setdefault(key, []).append(place)
    dropped: dict[int, int] = {}
    for places in groups.values():
        best, *others = sorted(places, key=lambda place: _rank(examples[place]))
        dropped |= dict.fromkeys(others, best)
    return dropped


def _rank(example: Example) -> tuple[int, bool, str]:
    return -example.source_width * example.source_height, example.caption_found is None, example.id
