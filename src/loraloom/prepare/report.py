"""What `prepare` did, as one page for the browser.

In: a manifest, problems, notes, groups of near-duplicates and thumbnails. Out: `report.html`, self-contained (no
script, no network), in light or dark as the reader's system is. Every text of the user's is escaped.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loraloom.data.manifest import Manifest
from loraloom.protocols.data import Example
from loraloom.utils.atomic_files import write_text
from loraloom.utils.html_pages import data_uri, render_page

_MOST_ROWS = 1000
_MOST_BARS = 24
_MOST_GROUPS = 50
_CAPTION_CHARS = 600
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A source file, relative to the source folder, and what is to be said about it."""

    file: str
    reason: str


def write_report(
    path: Path,
    manifest: Manifest,
    problems: Sequence[Problem],
    notes: Sequence[Problem],
    groups: Sequence[Sequence[str]],
    thumbnails: Mapping[str, bytes],
    counted: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: The file.
        manifest: The dataset.
        problems: Files that were not used.
        notes: Files that were used with a remark.
        groups: Ids of images that are nearly the same.
        thumbnails: JPEG bytes by id; images without one are counted, not shown.
        counted: Lines on what was not read, got no caption of its own, or should be looked at, as on the terminal.
    """
    examples, info = manifest.examples, manifest.info
    shown = [example for example in examples if example.id in thumbnails]
    values: dict[str, object] = {
        "title": f"{info.get('source', manifest.folder.name)}: prepared images",
        "info": {key: info.get(key, "") for key in ("format", "format_reason", "created")},
        "facts": _facts(examples, problems, groups),
        "counted": counted,
        "problems": problems,
        "notes": notes,
        "max_rows": _MOST_ROWS,
        "charts": _charts(examples),
        "groups": sorted(groups, key=len, reverse=True),
        "max_groups": _MOST_GROUPS,
        "figures": [_figure(example, thumbnails[example.id]) for example in shown],
        "num_not_shown": len(examples) - len(shown),
    }
    write_text(path, render_page(_TEMPLATE, values))


def _facts(
    examples: Sequence[Example], problems: Sequence[Problem], groups: Sequence[Sequence[str]]
) -> list[dict[str, object]]:
    num_held = sum(example.split == "validation" for example in examples)
    found = sum(example.caption_found is not None for example in examples)
    facts = [
        (len(examples), "images", False),
        (len(examples) - num_held, "to learn from", False),
        (num_held, "held out", False),
        (found, "with their own text", False),
        (len(examples) - found, "without a caption", found < len(examples)),
        (sum(len(group) for group in groups), "near-duplicates", False),
        (len(problems), "not used", bool(problems)),
    ]
    return [{"number": number, "label": label, "warn": warn} for number, label, warn in facts]


def _charts(examples: Sequence[Example]) -> list[dict[str, object]]:
    buckets = Counter((example.width, example.height) for example in examples)
    common = sorted(buckets.most_common(_MOST_BARS), key=lambda item: item[0][0] / item[0][1])
    charts = [
        ("Prepared sizes", [(f"{width} x {height}", number) for (width, height), number in common]),
        ("Shorter side of the sources, pixels", _bins([min(e.source_width, e.source_height) for e in examples])),
    ]
    tokens = [example.num_tokens for example in examples if example.num_tokens is not None]
    if tokens:
        charts.append(("Tokens of a caption", _bins(tokens)))
    else:
        charts.append(("Characters of a caption", _bins([len(example.caption) for example in examples])))
    return [{"title": title, "bars": _bars(bars)} for title, bars in charts]


def _bars(bars: Sequence[tuple[str, int]]) -> list[dict[str, object]]:
    most = max(number for _, number in bars)
    return [{"label": label, "number": number, "share": number / most} for label, number in bars]


def _bins(values: Sequence[int]) -> list[tuple[str, int]]:
    """At most 12 bins of a round width."""
    low, high = min(values), max(values)
    width = max(1, math.ceil((high - low + 1) / 12))
    magnitude = 10 ** (len(str(width)) - 1)
    width = math.ceil(width / magnitude) * magnitude
    first, last = low // width, high // width
    numbers = Counter(value // width for value in values)
    if width == 1:
        return [(str(step), numbers[step]) for step in range(first, last + 1)]
    return [(f"{step * width}-{(step + 1) * width - 1}", numbers[step]) for step in range(first, last + 1)]


def _figure(example: Example, jpeg: bytes) -> dict[str, object]:
    caption = example.caption
    if len(caption) > _CAPTION_CHARS:
        caption = f"{caption[:_CAPTION_CHARS]} ..."
    return {"example": example, "caption": caption, "source": data_uri(jpeg, "image/jpeg")}
