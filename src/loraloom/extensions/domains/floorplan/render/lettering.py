"""Names and words for rendered plans, in English and Korean, and the font that has all their letters.

In: a language, a room, a size. Out: words and a Pillow font. The font is a part of Noto Sans CJK that has Latin 1 and
the Hangul of this file only; after new Korean words run `scripts/subset_font.py`.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from PIL import ImageFont

from loraloom.utils.errors import UserError, did_you_mean

from ..vocabulary import ROOM_TYPES, RoomId

_FONTS = Path(__file__).parents[4] / "assets" / "fonts"

_ENGLISH = {
    **{kind: kind for kind in ROOM_TYPES},
    "count": "Rooms",
    "connection": "Connections",
    "position": "Positions",
    "extras": "Not asked for",
    "not understood": "Not understood",
    "taken": "Taken",
    "met": "{met} of {all} sentences met",
    "not met": "{count} not met",
    "cannot tell": "{count} cannot tell",
    "nothing": "The text asks for nothing",
    "more": "… and {count} more: see the receipt",
    "door": "connection proved",
    "failed": "not met",
    "unsure": "cannot tell",
    "extra": "not asked for",
    "north": "north: up, assumed",
}

_KOREAN = {
    "living room": "거실", "master room": "안방", "bedroom": "침실", "kitchen": "주방", "bathroom": "욕실",
    "balcony": "발코니", "storage": "창고", "entrance": "현관",
    "count": "방의 수", "connection": "연결", "position": "위치", "extras": "요청하지 않은 것",
    "not understood": "판단 불가", "taken": "판단",
    "met": "문장 {all}개 중 {met}개 충족", "not met": "{count}개 미충족", "cannot tell": "{count}개 판단 불가",
    "nothing": "요청한 것이 없습니다", "more": "… 외 {count}개",
    "door": "확인된 연결", "failed": "충족되지 않음", "unsure": "판단할 수 없음", "extra": "요청하지 않음",
    "north": "북쪽: 위 (가정)",
}  # fmt: skip

LANGUAGES: Mapping[str, Mapping[str, str]] = MappingProxyType({"en": _ENGLISH, "ko": _KOREAN})
"""Room types and the words of a legend, by language. Sentences of a text are shown unchanged."""


_LETTERS = frozenset("".join((*_ENGLISH.values(), *_KOREAN.values())))


def can_letter(text: str) -> bool:
    """Whether the font has all letters of a text; a user's own words may have other letters."""
    return all(letter in _LETTERS or " " <= letter <= "~" or "\u00a1" <= letter <= "\u00ff" for letter in text)


def words_of(language: str) -> Mapping[str, str]:
    """The words of a language.

    Raises:
        UserError: There is no such language.
    """
    if language not in LANGUAGES:
        raise UserError("unknown language of labels", got=language, fix=did_you_mean(language, LANGUAGES))
    return LANGUAGES[language]


def room_name(room: RoomId, language: str = "en") -> str:
    """`bedroom #2`, `침실 #2`."""
    return f"{words_of(language)[room.kind]} #{room.number}"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    file = _FONTS / f"labels-{'bold' if bold else 'regular'}.otf"
    # Pillow's own layout: the other one needs a library that not every machine has, and texts must look the same
    # everywhere.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
