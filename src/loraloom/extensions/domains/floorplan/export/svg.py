"""Scalable drawing: a sheet at 1:100 with one group for each layer.

In: a plan and options. Out: bytes of an SVG whose user unit is one millimetre of the building (the sheet's size is a
hundredth of that, so it prints true to scale). Groups: rooms, walls, windows, doors, names, dimensions, scale-bar,
north, and optionally legend. Every area carries `data-class` (and rooms `data-room`), so that the file reads back as a
plan.
"""

from html import escape
from math import ceil, floor, hypot

from ..plan import Plan
from ..vision.outlines import Polygon
from ..vocabulary import ROOM_TYPES
from .drawing import NAME_PX, NOTE_PX, Drawing, Leaf, Options, Pane, Shape, draw

_TINTS = {
    "living room": "#faf6ea",
    "master room": "#eef4e6",
    "kitchen": "#f8e9e2",
    "bathroom": "#e4eef8",
    "bedroom": "#f2f5e9",
    "balcony": "#e9f2f1",
    "storage": "#f0ece4",
    "entrance": "#f4f0f7",
}
"""Pale enough that black text, walls and furniture stay readable on them, also when printed in grey."""

_INK, _SOFT, _GLASS, _FAINT = "#1d2126", "#4f5660", "#3b7ea1", "#8a919b"
_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def number(value: float) -> str:
    """A number with at most four decimals and no trailing zeros: a ten-thousandth of a millimetre is exact enough."""
    return f"{round(value, 4) + 0.0:.4f}".rstrip("0").rstrip(".")  # + 0.0 turns -0.0 into 0.0


class _Sheet:
    """Collects elements; positions are given in pixels of the plan and written in millimetres."""

    def __init__(self, mm_per_px: float) -> None:
        self.mm = mm_per_px
        self.parts: list[str] = []

    def spot(self, x: float, y: float) -> str:
        return f"{number(x * self.mm)} {number(y * self.mm)}"

    def path(self, polygon: Polygon) -> str:
        return "".join("M" + "L".join(self.spot(*corner) for corner in ring) + "Z" for ring in polygon.rings)

    def group(self, name: str, style: str, elements: list[str]) -> None:
        body = "\n".join(f"    {element}" for element in elements)
        self.parts.append(f'  <g id="{name}" {style}>\n{body}\n  </g>')

    def line(self, x0: float, y0: float, x1: float, y1: float, extra: str = "") -> str:
        return f'<path d="M{self.spot(x0, y0)}L{self.spot(x1, y1)}"{extra}/>'

    def text(self, x: float, y: float, height: float, words: str, extra: str = "") -> str:
        """Text whose middle is at the spot; `height` in pixels of the plan."""
        at = f'x="{number(x * self.mm)}" y="{number((y + 0.35 * height) * self.mm)}"'
        return f'<text {at} font-size="{number(height * self.mm)}"{extra}>{escape(words)}</text>'


def as_bytes(plan: Plan, options: Options) -> bytes:
    """The file, UTF-8."""
    drawing = draw(plan, options.scale)
    sheet = _Sheet(options.scale.mm_per_px)
    stroke = f'stroke="{_INK}" stroke-linecap="square" fill="none"'
    sheet.group(
        "rooms",
        'fill-rule="evenodd" stroke="none"',
        [_area(sheet, shape, _TINTS[shape.kind]) for shape in drawing.rooms],
    )
    sheet.group("walls", 'fill-rule="evenodd" stroke="none"', [_area(sheet, shape, _INK) for shape in drawing.walls])
    windows = [_area(sheet, shape, "#ffffff") for shape in drawing.openings if shape.kind == "window"]
    lines = [_pane(sheet, pane) for pane in drawing.panes if pane.kind == "window"]
    sheet.group("windows", f'stroke="{_GLASS}" stroke-width="{number(0.35 * sheet.mm)}"', windows + lines)
    doors = [
        _area(sheet, shape, _TINTS[shape.rooms[0].kind] if shape.rooms else "#ffffff")
        for shape in drawing.openings
        if shape.kind != "window"
    ]
    leaves = [_leaf(sheet, leaf) for leaf in drawing.leaves]
    panels = [_pane(sheet, pane) for pane in drawing.panes if pane.kind != "window"]
    sheet.group("doors", f'{stroke} stroke-width="{number(0.35 * sheet.mm)}"', doors + leaves + panels)
    _names(sheet, drawing)
    _dimensions(sheet, drawing, options.scale.exact)
    bottom = _scale_bar(sheet, drawing, options)
    if options.north is not None:
        _north(sheet, drawing, options.north)
    if options.legend:
        bottom = _legend(sheet, drawing, bottom)
    return _document(sheet, drawing, options, plan, bottom).encode()


def _document(sheet: _Sheet, drawing: Drawing, options: Options, plan: Plan, bottom: float) -> str:
    left, top, right, _ = drawing.box
    mm = sheet.mm
    x0, y0 = (left - 22) * mm, (top - 22) * mm
    width, height = (max(right - left, 70) + 44) * mm, (bottom + 8 - top + 22) * mm
    rows, columns = plan.labels.shape
    view = " ".join(number(value) for value in (x0, y0, width, height))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(width / 100)}mm" height="{number(height / 100)}mm" '
        f'viewBox="{view}" data-mm-per-px="{mm!r}" data-size="{columns} {rows}" font-family="{_FONT}">'
    )
    about = f"One unit is one millimetre; the sheet is 1:100. Scale: {options.scale.source}."
    page = f'<rect x="{number(x0)}" y="{number(y0)}" width="{number(width)}" height="{number(height)}" fill="#ffffff"/>'
    titles = f"  <title>{escape(options.title)}</title>\n  <desc>{escape(about)}</desc>\n  {page}"
    return "\n".join([head, titles, *sheet.parts, "</svg>", ""])


def _area(sheet: _Sheet, shape: Shape, colour: str) -> str:
    room = f' data-room="{shape.room}"' if shape.room else ""
    # The threshold of an opening is an area like any other; leaf, panes and walls are its border.
    frame = ' stroke-width="0"' if "door" in shape.kind else ""
    return f'<path data-class="{shape.kind}"{room} fill="{colour}"{frame} d="{sheet.path(shape.polygon)}"/>'


def _pane(sheet: _Sheet, pane: Pane) -> str:
    width = "" if pane.kind == "window" else f' stroke-width="{number(0.7 * sheet.mm)}"'
    return sheet.line(*pane.start, *pane.stop, width)


def _leaf(sheet: _Sheet, leaf: Leaf) -> str:
    """The leaf as a heavy line, its swing as a thin arc; the sweep flag is 1 for clockwise on the image."""
    (hx, hy), (tx, ty), (jx, jy) = leaf.hinge, leaf.tip, leaf.jamb
    radius = number(hypot(tx - hx, ty - hy) * sheet.mm)
    clockwise = int((tx - hx) * (jy - hy) - (ty - hy) * (jx - hx) > 0)
    heavy, thin = number(0.7 * sheet.mm), number(0.25 * sheet.mm)
    return (
        f'<path d="M{sheet.spot(hx, hy)}L{sheet.spot(tx, ty)}" stroke-width="{heavy}"/>'
        f'<path d="M{sheet.spot(tx, ty)}A{radius} {radius} 0 0 {clockwise} {sheet.spot(jx, jy)}" stroke-width="{thin}"/>'
    )


def _names(sheet: _Sheet, drawing: Drawing) -> None:
    elements: list[str] = []
    for caption in drawing.captions:
        x, y = caption.at
        heights = [NAME_PX * caption.factor, *[NOTE_PX * caption.factor] * (len(caption.lines) - 1)]
        turn = f' transform="rotate(-90 {sheet.spot(x, y)})"' if caption.upright else ""
        at = y - 1.25 * sum(heights) / 2
        for index, (line, height) in enumerate(zip(caption.lines, heights, strict=True)):
            look = f' font-weight="600" fill="{_INK}"' if index == 0 else f' fill="{_SOFT}"'
            elements.append(sheet.text(x, at + 1.25 * height / 2, height, line, look + turn))
            at += 1.25 * height
    sheet.group("names", 'text-anchor="middle"', elements)


def _dimensions(sheet: _Sheet, drawing: Drawing, exact: bool) -> None:
    """Dimension lines: outer width above the plan and outer depth to its left, in millimetres as is usual on plans."""
    left, top, right, bottom = drawing.box
    y, x, tick = top - 9, left - 9, 1.2
    step, about = (10, "") if exact else (100, "about ")
    wide, high = (
        about + f"{round((b - a) * sheet.mm / step) * step:,}".replace(",", " ")
        for a, b in ((left, right), (top, bottom))
    )
    elements = [
        sheet.line(left - 2, y, right + 2, y),
        sheet.line(x, top - 2, x, bottom + 2),
        *(sheet.line(at, y - 3, at, top - 3) for at in (left, right)),
        *(sheet.line(x - 3, at, left - 3, at) for at in (top, bottom)),
        *(sheet.line(at - tick, y + tick, at + tick, y - tick, ' stroke-width="60"') for at in (left, right)),
        *(sheet.line(x - tick, at + tick, x + tick, at - tick, ' stroke-width="60"') for at in (top, bottom)),
    ]
    middle = (top + bottom) / 2
    plain = f' fill="{_SOFT}" stroke="none"'
    turn = f' transform="rotate(-90 {sheet.spot(x - 3.4, middle)})"'
    elements += [
        sheet.text((left + right) / 2, y - 3.4, NOTE_PX, wide, plain),
        sheet.text(x - 3.4, middle, NOTE_PX, high, plain + turn),
    ]
    sheet.group(
        "dimensions", f'text-anchor="middle" stroke="{_FAINT}" stroke-width="{number(0.2 * sheet.mm)}"', elements
    )


def _scale_bar(sheet: _Sheet, drawing: Drawing, options: Options) -> float:
    """A bar of whole metres below the plan; returns the lowest pixel row in use."""
    left, top, right, bottom = drawing.box
    del top
    metre = 1000 / sheet.mm
    count = max(1, min(5, floor((max(right - left, 70) - 20) / metre / 1.3)))
    y, thick = bottom + 10.0, 1.6
    elements: list[str] = []
    for index in range(count):
        fill = _INK if index % 2 == 0 else "#ffffff"
        at = f'x="{number((left + index * metre) * sheet.mm)}" y="{number(y * sheet.mm)}"'
        size = f'width="1000" height="{number(thick * sheet.mm)}"'
        elements.append(f'<rect {at} {size} fill="{fill}" stroke="{_INK}" stroke-width="{number(0.2 * sheet.mm)}"/>')
    for index in range(count + 1):
        unit = " m" if index == count else ""
        elements.append(sheet.text(left + index * metre, y - 3, NOTE_PX * 0.85, f"{index}{unit}", f' fill="{_SOFT}"'))
    words = "1:100" if options.scale.exact else "about 1:100; scale " + options.scale.source
    place = f' fill="{_SOFT}" text-anchor="start"'
    elements.append(sheet.text(left, y + 6, NOTE_PX * 0.85, words, place))
    sheet.group("scale-bar", 'text-anchor="middle"', elements)
    return y + 9


def _north(sheet: _Sheet, drawing: Drawing, degrees: float) -> None:
    _, _, right, bottom = drawing.box
    x, y, radius = max(right, drawing.box[0] + 70) - 6.0, bottom + 12.0, 4.6
    turn = f'transform="rotate({number(degrees)} {sheet.spot(x, y)})"'
    half = f"M{sheet.spot(x, y - radius)}L{sheet.spot(x - 2.2, y + 3.6)}L{sheet.spot(x, y + 2.2)}Z"
    other = f"M{sheet.spot(x, y - radius)}L{sheet.spot(x + 2.2, y + 3.6)}L{sheet.spot(x, y + 2.2)}Z"
    thin = number(0.3 * sheet.mm)
    elements = [
        f'<circle cx="{number(x * sheet.mm)}" cy="{number(y * sheet.mm)}" r="{number(radius * sheet.mm)}" '
        f'fill="none" stroke="{_SOFT}" stroke-width="{thin}"/>',
        f'<path d="{half}" fill="{_INK}" stroke="{_INK}" stroke-width="{thin}" {turn}/>',
        f'<path d="{other}" fill="#ffffff" stroke="{_INK}" stroke-width="{thin}" {turn}/>',
        sheet.text(x, y - radius - 2.6, NOTE_PX * 0.9, "N", f' fill="{_INK}" font-weight="600" {turn}'),
    ]
    sheet.group("north", 'text-anchor="middle"', elements)


def _legend(sheet: _Sheet, drawing: Drawing, bottom: float) -> float:
    """Swatches of the room types that occur, in as many rows as they need; returns the lowest pixel row in use."""
    left, _, right, _ = drawing.box
    present = [kind for kind in ROOM_TYPES if any(shape.kind == kind for shape in drawing.rooms)]
    column = 40.0
    per_row = max(1, floor(max(right - left, 70) / column))
    elements: list[str] = []
    for index, kind in enumerate(present):
        x, y = left + index % per_row * column, bottom + 5 + index // per_row * 8
        at = f'x="{number(x * sheet.mm)}" y="{number(y * sheet.mm)}"'
        size = f'width="{number(5 * sheet.mm)}" height="{number(4 * sheet.mm)}"'
        elements.append(
            f'<rect {at} {size} fill="{_TINTS[kind]}" stroke="{_FAINT}" stroke-width="{number(0.2 * sheet.mm)}"/>'
        )
        elements.append(sheet.text(x + 7, y + 2, NOTE_PX * 0.85, kind.capitalize(), f' fill="{_SOFT}"'))
    sheet.group("legend", 'text-anchor="start"', elements)
    return bottom + 5 + ceil(len(present) / per_row) * 8
