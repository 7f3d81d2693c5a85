"""Contact sheets: rows of images with headings.

In: a grid of images; some may be missing. Out: one RGB image.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _HEAD = 8, 30
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NanumGothic.ttf",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
    "DejaVuSans.ttf",
)
_INK, _PAPER, _BLANK = (34, 34, 38), (250, 250, 250), (225, 225, 228)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    cell_px: int = 192,
) -> Image.Image:
    """A grid of images; the heading `row_names[r]` is above row r, column names are at the top.

    Args:
        rows: Images; None and missing cells of shorter rows are blank.
        row_names: One name per row; cut with an ellipsis if too long.
        column_names: One name per column.
        cell_px: Side in pixels of the square that each image is fitted into.
    """
    columns = max([len(column_names), *(len(row) for row in rows)], default=0)
    width = max(_MARGIN + columns * (cell_px + _MARGIN), 240)
    height = _HEAD + len(rows) * (_HEAD + cell_px + _MARGIN)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = _font("".join([*row_names, *column_names]))
    for column, name in enumerate(column_names):
        draw.text((_MARGIN + column * (cell_px + _MARGIN), 8), _fit(draw, name, font, cell_px), fill=_INK, font=font)
    for number, row in enumerate(rows):
        top = _HEAD + number * (_HEAD + cell_px + _MARGIN)
        draw.text((_MARGIN, top + 6), _fit(draw, row_names[number], font, width - 2 * _MARGIN), fill=_INK, font=font)
        for column in range(columns):
            left = _MARGIN + column * (cell_px + _MARGIN)
            image = row[column] if column < len(row) else None
            _paste(sheet, image, left, top + _HEAD, cell_px)
    return sheet


def _font(text: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font; for letters that it lacks, such as Korean, a font of the system if there is one."""
    if max(text, default=" ") > "\u024f":
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, 14)
            except OSError:
                continue
    return ImageFont.load_default(size=14)


def _paste(sheet: Image.Image, image: Image.Image | None, left: int, top: int, cell_px: int) -> None:
    if image is None:
        sheet.paste(_BLANK, (left, top, left + cell_px, top + cell_px))
        return
    scale = cell_px / max(image.size)
    # Small images are enlarged without interpolation, so that thin lines stay sharp.
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    fitted = image.convert("RGB").resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), kind
    )
    sheet.paste(fitted, (left + (cell_px - fitted.width) // 2, top + (cell_px - fitted.height) // 2))


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room_px: int) -> str:
    line = " ".join(text.split())
    if len(line) <= room_px and draw.textlength(line, font=font) <= room_px:
        return line
    # Bisection: removing one letter at a time took minutes for a prompt of thousands of letters.
    low, high = 0, min(len(line), room_px)
    while low < high:
        middle = (low + high + 1) // 2
        if draw.textlength(line[:middle] + "…", font=font) <= room_px:
            low = middle
        else:
            high = middle - 1
    return line[:low] + "…"
