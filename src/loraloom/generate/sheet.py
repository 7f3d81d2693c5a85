"""Contact sheets: rows of images with headings.

In: a grid of images, some perhaps missing. Out: one RGB image.
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
    """A grid; row r has the heading `row_names[r]` above it, column names stand at the top.

    Args:
        rows: Images, None where there is none; shorter rows are filled with blanks.
        row_names: One a row; cut with an ellipsis where they do not fit.
        column_names: One a column.
        cell_px: Side of the square that each image is fitted into.
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
    """Pillow's own font, or for letters that it lacks (Korean, say) a font of the system where there is one."""
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
    # Small images are shown in whole pixels: a plan's walls must not blur on the sheet.
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    fitted = image.convert("RGB").resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), kind
    )
    sheet.paste(fitted, (left + (cell_px - fitted.width) // 2, top + (cell_px - fitted.height) // 2))


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room_px: int) -> str:
    line = " ".join(text.split())
    if len(line) <= room_px and draw.textlength(line, font=font) <= room_px:
        return line
    # Halving: a letter at a time took minutes for a prompt of some thousand letters.
    low, high = 0, min(len(line), room_px)
    while low < high:
        middle = (low + high + 1) // 2
        if draw.textlength(line[:middle] + "…", font=font) <= room_px:
            low = middle
        else:
            high = middle - 1
    return line[:low] + "…"
