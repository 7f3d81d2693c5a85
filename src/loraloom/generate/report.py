"""One HTML file that shows images beside what was asked for, sentence by sentence.

In: rows of judged images. Out: a file without scripts and without links to other files, so that it can be sent to
someone as it is.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from loraloom.protocols.domain import Receipt, Verdict
from loraloom.utils.atomic_files import write_text


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of a row.

    Attributes:
        title: What it is.
        image: RGB, shown as it is.
        receipt: Listed below; None for images that nobody judged.
    """

    title: str
    image: Image.Image
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What one prompt has come to."""

    prompt: str
    images: Sequence[Shown]


def write_report(path: Path, title: str, facts: Sequence[tuple[str, str]], rows: Sequence[Row], note: str = "") -> None:
    """Write the page.

    Args:
        path: Of the HTML file; replaced as a whole.
        title: Heading.
        facts: Name and value, shown as a table.
        rows: One section each.
        note: A paragraph below the heading.
    """
    table = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    body = "".join(_section(number, row) for number, row in enumerate(rows, 1))
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<main><h1>{escape(title)}</h1><p>{escape(note)}</p><table class=facts>{table}</table>{body}</main></html>\n",
    )


def _section(number: int, row: Row) -> str:
    figures = "".join(_figure(shown) for shown in row.images)
    first = " ".join(row.prompt.split())[:90]
    return (
        f"<section><h2>{number}. {escape(first)}…</h2><details><summary>the whole text</summary>"
        f"<pre>{escape(row.prompt.strip())}</pre></details><div class=row>{figures}</div></section>"
    )


def _figure(shown: Shown) -> str:
    stream = io.BytesIO()
    shown.image.save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    told = ""
    if shown.receipt:
        met, every = shown.receipt.count(True), len(shown.receipt.verdicts)
        lines = "".join(_line(verdict) for verdict in shown.receipt.verdicts)
        lines += "".join(f"<li class=extra>not asked for: {escape(extra)}</li>" for extra in shown.receipt.extras)
        named = zip(("not understood", "taken"), shown.receipt.unread.items, strict=True)
        lines += "".join(f"<li class=extra>{name}: {escape(item)}</li>" for name, items in named for item in items)
        told = f"<details><summary>{met} of {every} sentences met</summary><ul>{lines}</ul></details>"
    title = escape(shown.title)
    return (
        f'<figure><img alt="{title}" src="data:image/png;base64,{data}" width="{shown.image.width}">'
        f"<figcaption>{title}</figcaption>{told}</figure>"
    )


def _line(verdict: Verdict) -> str:
    kind, word = {True: ("met", "met"), False: ("missed", "not met"), None: ("unsure", "cannot tell")}[verdict.met]
    reason = f" <small>{escape(verdict.reason)}</small>" if verdict.reason else ""
    return f"<li class={kind}>{escape(verdict.sentence)} <b>{word}</b>{reason}</li>"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .3rem; }
table.facts th { text-align: left; padding-right: 1.5rem; font-weight: 500; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .5rem; }
figure { margin: 0; width: 270px; }
img { max-width: 100%; height: auto; border: 1px solid #8886; image-rendering: pixelated; }
figcaption { font-weight: 600; }
pre { white-space: pre-wrap; font-size: 13px; }
ul { list-style: none; padding: 0; font-size: 13px; }
li { border-left: 3px solid; padding-left: .5rem; margin: .2rem 0; }
.met { border-color: #2a8f4a; } .missed { border-color: #c8402f; } .unsure, .extra { border-color: #b98a1d; }
.met b { color: #2a8f4a; } .missed b { color: #c8402f; } .unsure b { color: #b98a1d; }
"""
