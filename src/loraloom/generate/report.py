"""One HTML file that shows images beside what was asked for, sentence by sentence.

In: rows of judged images. Out: a file without scripts and without links to other files, so that it can be sent to
someone as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from loraloom.protocols.domain import Receipt
from loraloom.utils.atomic_files import write_text
from loraloom.utils.html_pages import data_uri, render_page
from loraloom.utils.image_files import png_bytes

_TEMPLATE = Path(__file__).with_name("report.html")


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
    values: dict[str, object] = {
        "title": title,
        "note": note,
        "facts": facts,
        "rows": [_row(row) for row in rows],
        "words": {True: ("met", "met"), False: ("missed", "not met"), None: ("unsure", "cannot tell")},
    }
    write_text(path, render_page(_TEMPLATE, values))


def _row(row: Row) -> dict[str, object]:
    first = " ".join(row.prompt.split())[:90]
    return {"first": first, "prompt": row.prompt.strip(), "figures": [_figure(shown) for shown in row.images]}


def _figure(shown: Shown) -> dict[str, object]:
    return {
        "title": shown.title,
        "source": data_uri(png_bytes(shown.image, level=9), "image/png"),
        "width": shown.image.width,
        "receipt": shown.receipt,
    }
