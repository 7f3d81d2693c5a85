"""Show plans, texts and receipts in a terminal.

In: a plan, a spec or a receipt. Out: what `rich` prints: an image of half blocks in the plan's own colours, or of plain
letters where there is no colour, and tables.
"""

from collections.abc import Iterable
from math import ceil

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from loraloom.protocols.domain import Receipt

from ..plan import Plan
from ..text.spec import Spec
from ..vision.pixels import Box, Labels
from ..vision.scale import CONVENTION, Scale, areas
from ..vocabulary import EXTERNAL, NUM_CLASSES, STYLES, WALL, RoomId, Style, hex_of
from .legend import SAID_ABOVE

LETTERS = " LMKTBYSE#F+="
"""One letter for each pixel class: Living, Master, Kitchen, baThroom, Bedroom, balconY, Storage, Entrance; # wall,
F front door, + interior door, = window."""

_SHORT = {
    "living room": "L",
    "master room": "M",
    "kitchen": "K",
    "bathroom": "T",
    "bedroom": "B",
    "balcony": "Y",
    "storage": "S",
    "entrance": "E",
}

_THIN_SHARE = 0.3
"""A cell with at least this share of wall and openings shows them: every wall of three pixels has such cells."""

_MARGIN_PX = 2
_NAMED_CELLS = 4
"""A room narrower or lower than this number of cells gets no name in the image; it is in the table."""


def key_of_letters() -> str:
    """What the letters of the plain image mean, one line."""
    rooms = ", ".join(f"{letter} {kind}" for kind, letter in _SHORT.items())
    return f"{rooms}, # wall, F front door, + interior door, = window"


def terminal_image(plan: Plan, style: Style | str = "sjh", width: int = 72, *, colour: bool = True) -> Text:
    """A plan as lines of characters.

    Args:
        plan: The plan; everything that surrounds it is cut off.
        style: Style whose colours are used.
        width: Number of columns.
        colour: Whether to use half blocks in 24-bit colour; otherwise plain letters, see `LETTERS`.
    """
    left, top, right, bottom = _extent(plan.labels)
    cell = max(1, ceil((right - left) / max(8, width)))
    crop = plan.labels[top:bottom, left:right]
    if not colour:
        small = reduced(crop, 2 * cell, cell)
        return Text(
            "\n".join("".join(LETTERS[label] for label in row).rstrip() for row in small.tolist()), no_wrap=True
        )
    small = reduced(crop, cell, cell)
    if len(small) % 2:
        small = np.vstack([small, np.zeros((1, small.shape[1]), np.uint8)])
    chosen = STYLES[style] if isinstance(style, str) else style
    names = _names(plan, (left, top), cell, small.shape)
    image = Text(no_wrap=True)
    for row in range(0, len(small), 2):
        for column in range(small.shape[1]):
            upper, lower = (chosen.colours[int(small[row + half, column])] for half in (0, 1))
            letter = names.get((row // 2, column))
            if letter:
                image.append(letter, f"bold {_contrast(lower)} on {hex_of(lower)}")
            else:
                image.append("▀", f"{hex_of(upper)} on {hex_of(lower)}")
        image.append("\n")
    image.right_crop(1)
    return image


def _extent(labels: Labels) -> Box:
    """Box of everything that is not outside, with a margin; the whole plan when all is outside."""
    ys, xs = np.nonzero(labels != EXTERNAL)
    rows, columns = labels.shape
    if not len(ys):
        return 0, 0, columns, rows
    left, top = max(0, int(xs.min()) - _MARGIN_PX), max(0, int(ys.min()) - _MARGIN_PX)
    return left, top, min(columns, int(xs.max()) + 1 + _MARGIN_PX), min(rows, int(ys.max()) + 1 + _MARGIN_PX)


def reduced(labels: Labels, rows: int, columns: int) -> Labels:
    """Blocks of rows x columns pixels become one: its most frequent class, or wall and opening where their share
    suffices."""
    height, width = (ceil(size / step) * step for size, step in zip(labels.shape, (rows, columns), strict=True))
    padded = np.zeros((height, width), np.uint8)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    blocks = padded.reshape(height // rows, rows, width // columns, columns)
    shares: NDArray[np.float64] = np.stack([(blocks == label).mean(axis=(1, 3)) for label in range(NUM_CLASSES)], -1)
    thin = shares[..., WALL:]
    open_choice, thin_choice = shares[..., :WALL].argmax(-1), thin.argmax(-1) + WALL
    return np.asarray(np.where(thin.sum(-1) >= _THIN_SHARE, thin_choice, open_choice), np.uint8)


def _names(plan: Plan, corner: tuple[int, int], cell: int, shape: tuple[int, ...]) -> dict[tuple[int, int], str]:
    """Characters such as `B2` at the middle of each room, by (line, column)."""
    found: dict[tuple[int, int], str] = {}
    for index, room in enumerate(plan.rooms, 1):
        left, top, right, bottom = room.box
        if min(right - left, bottom - top) < _NAMED_CELLS * cell:
            continue
        x, y = (round(value) for value in room.centroid)
        if plan.instances[y, x] != index:  # an L-shaped room's centroid may lie outside it
            ys, xs = np.nonzero(plan.instances == index)
            nearest = int(((xs - x) ** 2 + (ys - y) ** 2).argmin())
            x, y = int(xs[nearest]), int(ys[nearest])
        line, column = (y - corner[1]) // cell // 2, (x - corner[0]) // cell
        for place, letter in enumerate(short_name(room.id)):
            if 0 <= column + place < shape[1] and 0 <= line < shape[0] // 2:
                found[line, column + place] = letter
    return found


def short_name(room: RoomId) -> str:
    """Short name of a room, such as `B2`."""
    return f"{_SHORT[room.kind]}{room.number}"


def _contrast(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "#ffffff"


# ------------------------------------------------------------------------------------------------------- tables


def _table(columns: Iterable[tuple[str, bool]], title: str | None = None) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    return table


def plan_table(plan: Plan, scale: Scale = CONVENTION) -> Table:
    """Rooms with area, size, doors and windows, and the sum below."""
    columns = (("", False), ("room", False), ("area", True), ("size", True), ("doors to", False), ("windows", True))
    table = _table(columns)
    for room, area in zip(plan.rooms, areas(plan, scale), strict=True):
        own = [opening for opening in plan.openings if room.id in opening.rooms]
        others = [str(other) for opening in own if opening.kind == "interior door" for other in opening.rooms]
        doors = [other for other in dict.fromkeys(others) if other != str(room.id)]
        doors += ["outside" for opening in own if opening.kind == "front door"]
        sides = [f"{(room.box[axis + 2] - room.box[axis]) * scale.m_per_px:.1f}" for axis in (0, 1)]
        windows = sum(opening.kind == "window" for opening in own)
        table.add_row(
            short_name(room.id), str(room.id), str(area), " x ".join(sides) + " m", ", ".join(doors), str(windows or "")
        )
    if len(plan.rooms) > 1:
        table.add_section()
        table.add_row("", "all rooms", f"{sum(area.m2 for area in areas(plan, scale)):.1f} m²", "", "", "")
    return table


def receipt_table(receipt: Receipt) -> Table:
    """Table of every sentence, its verdict and the finding; then of everything that was not asked for."""
    table = _table((("", True), ("sentence", False), ("verdict", False), ("seen", False)))
    looks = {True: ("met", "green"), False: ("NOT MET", "bold red"), None: ("cannot tell", "yellow")}
    section = ""
    for number, verdict in enumerate(receipt.verdicts, 1):
        if section and verdict.section != section:
            table.add_section()
        section = verdict.section
        table.add_row(str(number), Text(verdict.sentence), Text(*looks[verdict.met]), Text(verdict.reason))
    if receipt.extras:
        table.add_section()
        for extra in receipt.extras:
            table.add_row("+", Text(extra.removesuffix(SAID_ABOVE)), Text("not asked for", "yellow"), "")
    return table


def spec_table(spec: Spec) -> Table:
    """Table of what a text asks for, room by room: connections and positions."""
    table = _table((("", False), ("room", False), ("connected with", False), ("lies", False)))
    for room in spec.rooms():
        others = [str(pair[1 - pair.index(room)]) for pair in spec.connections or () if room in pair]
        places = [f"{place.direction} {place.object}" for place in spec.positions or () if place.subject == room]
        table.add_row(short_name(room), str(room), ", ".join(others), ", ".join(places))
    return table
