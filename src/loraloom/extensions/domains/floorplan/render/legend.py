"""Render the legend beside and below a plan: every sentence with its verdict, the marks, a scale bar, north.

In: a receipt and the words of a language. Out: marks and words on a sheet. The list is measured first, so that nothing
is
cut: letters shrink down to a limit, then the sheet grows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from loraloom.protocols.domain import Receipt, Verdict

from ..vocabulary import M_PER_PX
from .lettering import can_letter
from .sheet import AMBER, FAINT, GREEN, GREY, INK, PAPER, RED, SOFT, Colour, Sheet, verdict_colour, width_of, wrapped

_SIZES = (17, 16, 15, 14)
_TITLE_PX = 30
MOST_LISTED = 120
"""Further sentences are in the receipt's table and file only; an image of thousands would need too much memory."""

_ICON, _NUMBER = 1.5, 2.1
"""Widths of the columns of verdict discs and of numbers, in letter sizes."""

SAID_ABOVE = ", which is not asked for"
"""Ending of the sentences that were not asked for; the heading above them says the same."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the list.

    Attributes:
        down: Distance of its baseline from the top of the list, pixels.
        right: Distance of its left end from the left edge of the list, pixels.
        text: Text of the line.
        colour: Colour of its letters.
        bold: Whether its letters are bold.
        number: Number of the sentence that begins here, from 1; 0 when none does.
        met: Verdict of that sentence.
        rule: Whether there is a thin line below it.
    """

    down: float
    right: float
    text: str
    colour: Colour
    bold: bool = False
    number: int = 0
    met: bool | None = None
    rule: bool = False


class Panel:
    """The list of sentences, laid out.

    Args:
        receipt: The receipt to list.
        words: Words of the language, by key.
        width: Width of the list, pixels.
        height: Available height, pixels; where the list needs more, the attribute `height` is the height needed.
    """

    def __init__(self, receipt: Receipt, words: Mapping[str, str], width: int, height: int) -> None:
        self._receipt, self._words, self._width = receipt, words, width
        for size in _SIZES:
            self._size = size
            self._lines = list(self._layout(size))
            self.height = int(self._lines[-1].down + size) if self._lines else 2 * _TITLE_PX
            if self.height <= height:
                break

    def _layout(self, size: int) -> Iterator[_Line]:
        at, step = _TITLE_PX * 1.6, size * 1.5
        receipt, words = self._receipt, self._words
        numbered = list(enumerate(receipt.verdicts[:MOST_LISTED], 1))
        for section, items in groupby(numbered, key=lambda item: item[1].section):
            at += step * 1.5
            yield _Line(at, 0, words.get(section, section), INK, True, rule=True)
            at += size * 0.45
            group = list(items)
            for row in self._in_columns(group, size):
                at += step
                lowest = at
                for column, lines in row:
                    right = column + size * (_ICON + _NUMBER)
                    for line in lines:
                        down = at + line.down * step * 0.86
                        lowest = max(lowest, down)
                        yield replace(line, down=down, right=right + line.right)
                at = lowest
        if len(receipt.verdicts) > MOST_LISTED:
            at += step
            yield _Line(at, 0, words["more"].format(count=len(receipt.verdicts) - MOST_LISTED), SOFT, True)
        if receipt.extras:
            at += step * 1.5
            yield _Line(at, 0, words["extras"], AMBER, True, rule=True)
            at += size * 0.45
            for extra in receipt.extras[:MOST_LISTED]:
                said = extra.removesuffix(SAID_ABOVE)
                for place, text in enumerate(wrapped(said, size, self._width - size * _ICON)):
                    at += step if place == 0 else step * 0.86
                    yield _Line(at, size * _ICON, text, INK, number=0 if place else -1)
        yield from self._unread(at, size, step)

    def _unread(self, at: float, size: int, step: float) -> Iterator[_Line]:
        """The parts of the text without a verdict; words in letters that the font lacks are counted only."""
        words = self._words
        for key, items in zip(("not understood", "taken"), self._receipt.unread.items, strict=True):
            if not items:
                continue
            at += step * 1.5
            yield _Line(at, 0, words[key], AMBER, True, rule=True)
            at += size * 0.45
            shown = [item for item in items if can_letter(item)][:MOST_LISTED]
            for text in [line for item in shown for line in wrapped(item, size, self._width - size * _ICON)]:
                at += step
                yield _Line(at, size * _ICON, text, INK)
            if len(shown) < len(items):
                at += step
                yield _Line(at, size * _ICON, words["more"].format(count=len(items) - len(shown)), SOFT)

    def _in_columns(self, group: Sequence[tuple[int, Verdict]], size: int) -> Iterator[list[tuple[float, list[_Line]]]]:
        """Rows of (left edge, lines of a sentence); short items such as counts are in two columns."""
        half = self._width / 2
        widest = max(width_of(verdict.sentence, size) for _, verdict in group)
        columns = 2 if widest <= half - size * (_ICON + _NUMBER + 1) else 1
        width = self._width / columns - size * (_ICON + _NUMBER)
        rows = -(-len(group) // columns)
        cells = [_sentence(number, verdict, size, width) for number, verdict in group]
        for row in range(rows):
            yield [(half * column, lines) for column, lines in enumerate(cells[row::rows])]

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Render it on the sheet with its upper left corner at x, y."""
        self._title(sheet, x, y)
        size = self._size
        for line in self._lines:
            sheet.text((x + line.right, y + line.down), line.text, size, line.colour, bold=line.bold)
            middle = y + line.down - size * 0.36
            if line.number > 0:
                left = x + line.right - size * (_ICON + _NUMBER)
                sheet.verdict((left + size * 0.6, middle), line.met, size * 1.15)
                sheet.text((x + line.right - size * 0.75, y + line.down), str(line.number), size - 2, SOFT, anchor="rs")
            elif line.number < 0:
                sheet.box(
                    (x + size * 0.1, middle - size / 2, x + size * 1.1, middle + size / 2), AMBER, radius=size / 2
                )
                sheet.line(((x + size * 0.32, middle), (x + size * 0.88, middle)), PAPER, size / 8)
                sheet.line(
                    ((x + size * 0.6, middle - size * 0.28), (x + size * 0.6, middle + size * 0.28)), PAPER, size / 8
                )
            if line.rule:
                below = y + line.down + size * 0.42
                sheet.box((x, below, x + self._width, below + 1), FAINT)

    def _title(self, sheet: Sheet, x: float, y: float) -> None:
        receipt, words = self._receipt, self._words
        total = len(receipt.verdicts)
        if not total:
            sheet.text((x, y + _TITLE_PX), words["nothing"], _TITLE_PX - 6, INK, bold=True)
            return
        right = x + self._width
        for key, count, colour in (("cannot tell", receipt.count(None), GREY), ("not met", receipt.count(False), RED)):
            if count:
                text = words[key].format(count=count)
                sheet.text((right, y + _TITLE_PX * 0.9), text, 18, colour, bold=True, anchor="rs")
                right -= width_of(text, 18, True) + 18
        title = words["met"].format(met=receipt.count(True), all=total)
        size = next((size for size in range(_TITLE_PX, 14, -1) if width_of(title, size, True) <= right - x), 14)
        sheet.text((x, y + _TITLE_PX * 0.9), title, size, GREEN if receipt.complete else INK, bold=True)
        top, left = y + _TITLE_PX * 1.45, x
        for met in (True, False, None):
            share = self._width * receipt.count(met) / total
            if share:
                sheet.box((left, top, left + share - 2, top + 9), verdict_colour(met), radius=3)
            left += share


def _sentence(number: int, verdict: Verdict, size: int, width: float) -> list[_Line]:
    """A sentence and, unless it is met, the reason: after it where both are short, else below; `down` counts lines."""
    sentence = wrapped(verdict.sentence, size, width)
    lines = [
        _Line(place, 0, text, INK, number=0 if place else number, met=verdict.met)
        for place, text in enumerate(sentence)
    ]
    if verdict.met is True:
        return lines
    colour, behind = verdict_colour(verdict.met), width_of(verdict.sentence, size) + size * 0.8
    if verdict.section == "count" and behind + width_of(verdict.reason, size) <= width:
        return [*lines, _Line(0, behind, verdict.reason, colour)]
    reason = enumerate(wrapped(verdict.reason, size, width), len(sentence))
    return [*lines, *(_Line(place, 0, text, colour) for place, text in reason)]


# ----------------------------------------------------------------------------------------------- below the plan


def strip(sheet: Sheet, left: float, top: float, width: float, scale: int, words: Mapping[str, str]) -> None:
    """Render scale bar and north at the ends, the meaning of the marks between them."""
    _scale_bar(sheet, left + 2, top + 26, scale)
    _north(sheet, left + width, top + 26, words["north"])
    x, y = left + 5 / M_PER_PX * scale + 70, top + 12.0
    for keys in (("door", "failed"), ("extra", "unsure")):
        for row, key in enumerate(keys):
            at = y + row * 28
            if key == "door":
                sheet.ring((x, at - 8, x + 36, at + 8), GREEN)
            elif key == "extra":
                sheet.ring((x, at - 8, x + 36, at + 8), AMBER)
            else:
                sheet.dashes((x + 2, at), (x + 34, at), RED if key == "failed" else GREY, 4.0, 8, 6)
            sheet.text((x + 50, at), words[key], 16, SOFT, anchor="lm")
        x += 50 + max(width_of(words[key], 16) for key in keys) + 44


def _scale_bar(sheet: Sheet, x: float, y: float, scale: int) -> None:
    metre = scale / M_PER_PX
    sheet.box((x, y - 5, x + 5 * metre, y + 5), PAPER, INK, 1.5)
    for first in (0, 2, 4):
        sheet.box((x + first * metre, y - 5, x + (first + 1) * metre, y + 5), INK)
    for metres, text in ((0, "0"), (1, "1"), (5, "5 m")):
        sheet.text((x + metres * metre, y - 11), text, 15, INK, anchor="ls" if metres == 0 else "ms")


def _north(sheet: Sheet, right: float, y: float, text: str) -> None:
    sheet.text((right - 26, y), text, 16, SOFT, anchor="rm")
    x = right - 10
    sheet.line(((x, y + 20), (x, y - 18)), INK, 2.5)
    sheet.line(((x - 7, y - 8), (x, y - 19), (x + 7, y - 8)), INK, 2.5)
