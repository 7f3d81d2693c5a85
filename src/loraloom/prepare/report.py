"""What `prepare` did, as one page for the browser.

In: a manifest, problems, notes, groups of near-duplicates and thumbnails. Out: `report.html`, self-contained (no
script, no network), in light or dark as the reader's system is. Every text of the user's is escaped.
"""

import base64
import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loraloom.data.manifest import Manifest
from loraloom.protocols.data import Example
from loraloom.utils.atomic_files import write_text

_MOST_ROWS = 1000
_MOST_BARS = 24
_CAPTION_CHARS = 600

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667080; --line: #dfe3e8; --page: #f6f7f9; --card: #fff;
  --accent: #3366cc; --warn: #b45309; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b3; --line: #2c333d; --page: #12161b;
  --card: #1a2027; --accent: #7aa2f7; --warn: #f0a94b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 38px 0 12px; }
.soft, small { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px;
  min-width: 108px; }
.fact b { display: block; font-size: 22px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.fact.warn b { color: var(--warn); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 14px; }
.chart, .group { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.chart h3 { font-size: 14px; margin: 0 0 6px; }
svg { display: block; width: 100%; height: auto; } svg rect { fill: var(--accent); }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; background: var(--card); }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.file { font-family: ui-monospace, monospace; font-size: 13px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure img { display: block; width: 100%; height: 170px; object-fit: contain; background: var(--page); }
figcaption { padding: 8px 10px 10px; font-size: 13px; overflow-wrap: anywhere; }
figcaption p { margin: 4px 0 0; white-space: pre-line; max-height: 7.5em; overflow: auto; }
.tag { float: right; color: var(--accent); font-size: 12px; }
"""


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
    info = manifest.info
    title = f"{info.get('source', manifest.folder.name)}: prepared images"
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<div class="soft">{_text(info.get("format", ""))}: {_text(info.get("format_reason", ""))}<br>'
        f"{_text(info.get('created', ''))}</div>",
        _facts(manifest.examples, problems, groups),
        "".join(f"<p>{_text(line)}</p>" for line in counted),
        _table("Not used", problems),
        _table("Used, but look", notes),
        _charts(manifest.examples),
        _duplicates(groups),
        _gallery(manifest.examples, thumbnails),
    ]
    write_text(path, _page(title, "\n".join(body)))


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The page shows texts of unknown origin: nothing in it may run or call out.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _facts(examples: Sequence[Example], problems: Sequence[Problem], groups: Sequence[Sequence[str]]) -> str:
    num_held = sum(example.split == "validation" for example in examples)
    found = sum(example.caption_found is not None for example in examples)
    facts = [
        (len(examples), "images", ""),
        (len(examples) - num_held, "to learn from", ""),
        (num_held, "held out", ""),
        (found, "with their own text", ""),
        (len(examples) - found, "without a caption", " warn" if found < len(examples) else ""),
        (sum(len(group) for group in groups), "near-duplicates", ""),
        (len(problems), "not used", " warn" if problems else ""),
    ]
    cards = (f'<div class="fact{kind}"><b>{number:,}</b>{label}</div>' for number, label, kind in facts)
    return f'<div class="facts">{"".join(cards)}</div>'


def _table(title: str, rows: Sequence[Problem]) -> str:
    if not rows:
        return ""
    lines = (
        f'<tr><td class="file">{_text(row.file)}</td><td>{_text(row.reason)}</td></tr>' for row in rows[:_MOST_ROWS]
    )
    more = f"<p class='soft'>and {len(rows) - _MOST_ROWS:,} more</p>" if len(rows) > _MOST_ROWS else ""
    head = "<tr><th>file</th><th>reason</th></tr>"
    return f'<h2>{title} ({len(rows):,})</h2><div class="scroll"><table>{head}{"".join(lines)}</table></div>{more}'


def _charts(examples: Sequence[Example]) -> str:
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
    cards = (f'<div class="chart"><h3>{title}</h3>{_bars(bars)}</div>' for title, bars in charts)
    return f'<h2>Sizes</h2><div class="charts">{"".join(cards)}</div>'


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


def _bars(bars: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars: their labels are read without turning one's head."""
    most = max(number for _, number in bars)
    step, left, room = 20, 92, 220
    rows = [
        f'<text x="{left - 8}" y="{index * step + 14}" text-anchor="end">{_text(label)}</text>'
        f'<rect x="{left}" y="{index * step + 3}" width="{room * number / most:.1f}" height="14" rx="3"/>'
        f'<text x="{left + room * number / most + 6:.1f}" y="{index * step + 14}">{number:,}</text>'
        for index, (label, number) in enumerate(bars)
    ]
    height = len(bars) * step + 4
    return f'<svg viewBox="0 0 360 {height}" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(rows)}</svg>'


def _duplicates(groups: Sequence[Sequence[str]]) -> str:
    if not groups:
        return ""
    largest = sorted(groups, key=len, reverse=True)
    rows = (
        f"<tr><td>{len(group):,}</td><td class='file'>{_text(', '.join(group[:12]))}{' ...' if len(group) > 12 else ''}"
        "</td></tr>"
        for group in largest[:50]
    )
    more = f"<p class='soft'>and {len(groups) - 50:,} more groups</p>" if len(groups) > 50 else ""
    note = "<p class='soft'>The images of one group (mirrored and turned ones too) are all held out, or none is.</p>"
    return f'<h2>Near-duplicates</h2>{note}<div class="scroll"><table>{"".join(rows)}</table></div>{more}'


def _gallery(examples: Sequence[Example], thumbnails: Mapping[str, bytes]) -> str:
    shown = [example for example in examples if example.id in thumbnails]
    left_out = len(examples) - len(shown)
    note = f"<p class='soft'>{left_out:,} more images are not shown here.</p>" if left_out else ""
    figures = "\n".join(_figure(example, thumbnails[example.id]) for example in shown)
    return f'<h2>Images</h2><div class="gallery">\n{figures}\n</div>{note}'


def _figure(example: Example, jpeg: bytes) -> str:
    caption = example.caption
    if len(caption) > _CAPTION_CHARS:
        caption = f"{caption[:_CAPTION_CHARS]} ..."
    tag = '<span class="tag">held out</span>' if example.split == "validation" else ""
    tokens = "" if example.num_tokens is None else f", {example.num_tokens} tokens"
    data = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<figure><img loading="lazy" alt="{_text(example.id)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{tag}<b>{_text(example.id)}</b><br><small>{example.source_width} x {example.source_height} to "
        f"{example.width} x {example.height}{tokens}</small><p>{_text(caption)}</p></figcaption></figure>"
    )
