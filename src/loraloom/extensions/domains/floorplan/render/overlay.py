"""Render a plan with the verdicts of its text marked on it.

In: an image, its reading and its receipt. Out: a larger RGB image: each room named with its area; doors that prove a
connection ringed green, doors of connections that are not asked for ringed amber; rooms of a sentence that is not met
joined by a red dashed line, of an undecided one by a grey line; the number on a mark is the sentence's in the list.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import hypot

from PIL import Image

from loraloom.protocols.domain import Box, Receipt, Verdict

from ..plan import MOST_ROOMS, Plan
from ..vision.reading import Reading
from ..vocabulary import SIZE_PX, RoomId
from .legend import Panel, strip
from .lettering import room_name, words_of
from .placing import Label, clearest, place_labels
from .sheet import AMBER, FAINT, GREEN, INK, PAPER, SOFT, Colour, Frame, Point, Sheet, verdict_colour, width_of

SCALE = 4
_SIDE = SIZE_PX * SCALE
_MARGIN, _GAP, _PANEL, _STRIP = 36, 44, 540, 92
_PALER = 0.30
"""How much white is mixed into the plan, so that marks and words stand out on it."""
_BADGE = 22
_BADGE_LETTERS = 14


@dataclass(frozen=True, slots=True)
class _Mark:
    """Sentences that share a mark on the plan.

    Attributes:
        numbers: Numbers of the sentences, from 1.
        colour: Colour of their verdict.
        rooms: The two rooms that a line joins, or the one room whose label is framed.
        frame: Box of a ring around a door; None for lines and labels.
    """

    numbers: tuple[int, ...]
    colour: Colour
    rooms: tuple[RoomId, ...] = ()
    frame: Frame | None = None

    @property
    def text(self) -> str:
        """Text of its badge; for a type with many failing sentences, with the number of further ones."""
        shown = [str(number) for number in self.numbers[:4]]
        return " ".join(shown) + (f" +{len(self.numbers) - 4}" if len(self.numbers) > 4 else "")


def draw_overlay(image: Image.Image, reading: Reading, receipt: Receipt, *, language: str = "en") -> Image.Image:
    """Render the verdicts on a plan.

    Args:
        image: The image that was verified, any size.
        reading: The reading of the image.
        receipt: The verdicts.
        language: `en` or `ko`: language of room names and legend. Sentences are shown as in the text.

    Returns:
        RGB image: the plan of 1024 x 1024 pixels, the list of sentences at its right, scale bar and legend below.

    Raises:
        UserError: Unknown language.
    """
    words = words_of(language)
    panel = Panel(receipt, words, _PANEL, _SIDE + _STRIP)
    height = 2 * _MARGIN + max(_SIDE + _STRIP, panel.height)
    sheet = Sheet(2 * _MARGIN + _SIDE + _GAP + _PANEL, height)
    enlarged = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    sheet.image(Image.blend(enlarged, Image.new("RGB", enlarged.size, PAPER), _PALER), _MARGIN, _MARGIN)
    sheet.box((_MARGIN - 1, _MARGIN - 1, _MARGIN + _SIDE + 1, _MARGIN + _SIDE + 1), None, FAINT, 1)
    if len(reading.plan.rooms) <= MOST_ROOMS:  # else it is no plan, and placing names takes too long
        _Marks(sheet, reading.plan, receipt, language).draw()
    strip(sheet, _MARGIN, _MARGIN + _SIDE + 22, _SIDE, SCALE, words)
    panel.draw(sheet, _MARGIN + _SIDE + _GAP, _MARGIN)
    return sheet.finish()


def _on_sheet(box: Box) -> Frame:
    left, top, right, bottom = (float(value * SCALE + _MARGIN) for value in box)
    return left, top, right, bottom


class _Marks:
    """All marks on the plan itself."""

    def __init__(self, sheet: Sheet, plan: Plan, receipt: Receipt, language: str) -> None:
        self._sheet, self._plan, self._language = sheet, plan, language
        self._rings = _rings(plan, receipt)
        self._links, self._framed = _links(plan, receipt)
        self._limits: Frame = (_MARGIN, _MARGIN, _MARGIN + _SIDE, _MARGIN + _SIDE)

    def draw(self) -> None:
        """Lines lowest, then rings, then labels, badges on top."""
        rings = [ring.frame for ring in self._rings if ring.frame]
        badges: list[tuple[Frame, _Mark]] = []
        for ring in self._rings:
            assert ring.frame
            if ring.numbers:
                frame = clearest(
                    _around(ring.frame, _badge_width(ring)), [*rings, *(each for each, _ in badges)], self._limits
                )
                badges.append((frame, ring))
        labels = self._labels([*rings, *(frame for frame, _ in badges)])
        taken = [*rings, *(frame for frame, _ in badges), *(label.frame for label in labels.values())]
        for link in self._links:
            start, stop = (labels[room].centre for room in link.rooms)
            self._sheet.dashes(start, stop, link.colour, 4.0)
            frame = clearest(_along(start, stop, _badge_width(link)), taken, self._limits)
            badges.append((frame, link))
            taken.append(frame)
        for ring in self._rings:
            assert ring.frame
            self._sheet.ring(ring.frame, ring.colour)
        framed = {mark.rooms[0]: mark for mark in self._framed}
        for label in labels.values():
            mark = framed.get(label.room)
            self._label(label, mark)
            if mark:
                frame = clearest(_corners(label.frame, _badge_width(mark)), taken, self._limits)
                badges.append((frame, mark))
                taken.append(frame)
        for frame, mark in badges:
            self._sheet.badge(frame, mark.text, mark.colour, _BADGE_LETTERS)

    def _labels(self, taken: Iterable[Frame]) -> dict[RoomId, Label]:
        """Labels in pixels of the sheet."""
        texts: dict[RoomId, tuple[tuple[str, ...], ...]] = {}
        for room in self._plan.rooms:
            name, area = room_name(room.id, self._language), f"{room.area_m2:.1f} m²"
            kind = name.split(" #")[0]
            texts[room.id] = (
                (name, area),
                (kind, f"#{room.id.number} · {area}"),
                (f"{name} · {area}",),
            )
        moved = [_moved(frame, -_MARGIN) for frame in taken]
        placed = place_labels(self._plan, SCALE, texts, moved)
        return {
            room: Label(label.room, label.lines, label.size, _moved(label.frame, _MARGIN), label.upright)
            for room, label in placed.items()
        }

    def _label(self, label: Label, mark: _Mark | None) -> None:
        line = mark.colour if mark else FAINT
        self._sheet.box(label.frame, PAPER, line, 2.5 if mark else 1.0, 9)
        for at, text, size, is_name in label.baselines():
            colour = INK if is_name else SOFT
            self._sheet.text(at, text, size, colour, bold=is_name, anchor="mm", upright=label.upright)


def _moved(frame: Frame, by: float) -> Frame:
    return frame[0] + by, frame[1] + by, frame[2] + by, frame[3] + by


# --------------------------------------------------------------------------------------------- what is marked where


def _rings(plan: Plan, receipt: Receipt) -> list[_Mark]:
    """Doors that prove a connection, and doors of connections that are not asked for."""
    proved: dict[Box, list[int]] = {}
    doors = {opening.box: opening for opening in plan.openings if opening.kind == "interior door"}
    for number, verdict in enumerate(receipt.verdicts, 1):
        if verdict.met and verdict.section == "connection":
            for box in verdict.regions:
                if box in doors:
                    proved.setdefault(box, []).append(number)
    rings = [_Mark(tuple(numbers), GREEN, (), _ring_frame(box)) for box, numbers in proved.items()]
    beginnings = tuple(extra.split(" are connected")[0] for extra in receipt.extras if " are connected" in extra)
    for box, door in doors.items():
        pairs = {f"{first} and {second}" for first, second in combinations(door.rooms, 2)}
        if box not in proved and not pairs.isdisjoint(beginnings):
            rings.append(_Mark((), AMBER, (), _ring_frame(box)))
    return rings


def _ring_frame(box: Box) -> Frame:
    left, top, right, bottom = _on_sheet(box)
    return left - 7, top - 7, right + 7, bottom + 7


def _links(plan: Plan, receipt: Receipt) -> tuple[list[_Mark], list[_Mark]]:
    """Sentences that are not met or undecided: lines between two rooms, and rooms of sentences with one room."""
    by_box = {room.box: room.id for room in plan.rooms}
    joined: dict[tuple[RoomId, RoomId, bool | None], list[int]] = {}
    alone: dict[tuple[RoomId, bool | None], list[int]] = {}
    for number, verdict in enumerate(receipt.verdicts, 1):
        if verdict.met is True:
            continue
        rooms = _rooms_of(verdict, by_box)
        if verdict.section != "count" and len(rooms) == 2:
            first, second = sorted(rooms, key=lambda room: room.rank)
            joined.setdefault((first, second, verdict.met), []).append(number)
        else:
            for room in rooms:
                alone.setdefault((room, verdict.met), []).append(number)
    lines = [
        _Mark(tuple(numbers), verdict_colour(met), (first, second)) for (first, second, met), numbers in joined.items()
    ]
    # A room has one frame: red overrides grey.
    frames: dict[RoomId, _Mark] = {}
    for (room, met), numbers in sorted(alone.items(), key=lambda item: item[0][1] is None):
        known = frames.get(room)
        frames[room] = _Mark(
            (*(known.numbers if known else ()), *numbers), known.colour if known else verdict_colour(met), (room,)
        )
    return lines, list(frames.values())


def _rooms_of(verdict: Verdict, by_box: Mapping[Box, RoomId]) -> list[RoomId]:
    return list(dict.fromkeys(by_box[box] for box in verdict.regions if box in by_box))


# ------------------------------------------------------------------------------------------------------- badges


def _badge_width(mark: _Mark) -> float:
    return max(_BADGE, width_of(mark.text, _BADGE_LETTERS, True) + 12)


def _badge_at(x: float, y: float, width: float) -> Frame:
    return x - width / 2, y - _BADGE / 2, x + width / 2, y + _BADGE / 2


def _around(ring: Frame, width: float) -> list[Frame]:
    """Candidate places beside the ring's ends, then beside its sides."""
    left, top, right, bottom = ring
    x, y = (left + right) / 2, (top + bottom) / 2
    across, down = width / 2 + 4, _BADGE / 2 + 4
    spots = [(right + across, y), (left - across, y), (x, bottom + down), (x, top - down)]
    if bottom - top > right - left:
        spots = spots[2:] + spots[:2]
    spots += [(right + across, top), (left - across, top), (right + across, bottom), (left - across, bottom)]
    return [_badge_at(*spot, width) for spot in spots]


def _along(start: Point, stop: Point, width: float) -> list[Frame]:
    """Candidate places on a line, its middle first; where labels cover it, beside it."""
    across, down = stop[0] - start[0], stop[1] - start[1]
    length = max(1.0, hypot(across, down))
    shares = (0.5, 0.45, 0.55, 0.4, 0.6, 0.35, 0.65, 0.3, 0.7, 0.25, 0.75, 0.2, 0.8)
    spots = [
        (start[0] + across * share - down / length * off, start[1] + down * share + across / length * off)
        for off in (0, 18, -18, 36, -36, 54, -54)
        for share in shares
    ]
    return [_badge_at(*spot, width) for spot in spots]


def _corners(label: Frame, width: float) -> list[Frame]:
    """Candidate places around a label's frame, clear of its words."""
    left, top, right, bottom = label
    x, y, down, across = (left + right) / 2, (top + bottom) / 2, _BADGE / 2 + 1, width / 2 + 1
    spots = [
        (right, top - down),
        (left, top - down),
        (right, bottom + down),
        (left, bottom + down),
        (x, top - down),
        (x, bottom + down),
        (right + across, y),
        (left - across, y),
    ]
    return [_badge_at(*spot, width) for spot in spots]
