"""Write an HTML report that shows images with the verdict on each sentence of their prompts.

In: rows of verified images. Out: one file without scripts and without links to other files, so that it can be shared.
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
        title: Caption of the figure.
        image: RGB image, shown in its own size.
        receipt: Receipt listed below the image; None if the image was not verified.
    """

    title: str
    image: Image.Image
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with its images."""

    prompt: str
    images: Sequence[Shown]


def write_report(path: Path, title: str, facts: Sequence[tuple[str, str]], rows: Sequence[Row], note: str = "") -> None:
    """Write the page.

    Args:
        path: Path of the HTML file; replaced atomically.
        title: Heading of the page.
        facts: Names and values, shown as a table.
        rows: The sections of the page.
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
