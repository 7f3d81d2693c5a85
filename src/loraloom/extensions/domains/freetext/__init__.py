"""Texts about anything: headers in brackets, sentences, and words that are wrong for the mirrored image.

In: a caption. Out: its sections (`[Header]` lines and the sentences below them), and the caption of the mirrored image, where
the words tell it.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from loraloom.protocols.contracts import DomainContract
from loraloom.protocols.domain import DatasetGenerator, Domain, Section, Verifier

if TYPE_CHECKING:
    from PIL import Image

_HEADER = re.compile(r"\[[^\[\]]+\]")
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+")  # the last three are the full-width ones

# A stem counts at the beginning of a word: left-of, leftmost, rightward, eastern.
_SIDED = re.compile(
    r"(?<![^\W_])(?:left|right|(?:counter|anti)?-?clockwise|(?:north|south)?-?(?:east|west)|port-side|starboard"
    # Writing is unreadable in a mirrored image; textures and textiles are not text.
    r"|text(?!ur|il)|letter|word|reads|alphabet|inscri|written|writing|handwrit|typograph|font|logo|caption|headline"
    r"|slogan|spells|spelled|signage|signpost|numeral|digit|monogram|calligraph"
    r"|links|rechts|gauche|droite|izquierd|derech|sinistra|destra)"
    r"|[\"“”„«»]\s*\w"  # a quoted phrase is mostly writing in the image
    r"|왼쪽|왼편|왼손|왼발|오른|좌측|우측|좌우|좌편|우편|좌상|우상|좌하|우하|좌회전|우회전|시계\s*방향|반시계"
    r"|동쪽|서쪽|동향|서향|동측|서측|북동|북서|남동|남서|동남|동북|서남|서북"
    r"|글자|글씨|문자|텍스트|문구|로고|자막|간판|한글|알파벳|숫자"
    r"|[左右]|东边|西边|東側|西側|顺时针|逆时针|時計回り|文字",
    re.IGNORECASE,
)


# Where "left" and "right" are sides of the image and nothing else: "on the left", "to the right of", not "the left hand".
_SIDE = re.compile(
    r"\b(?P<before>(?:on|to|at|from|in|towards?)\s+the\s+(?:far\s+|upper\s+|lower\s+|top\s+|bottom\s+)?)(?P<side>left|right)"
    r"(?P<after>\s+(?:side|half|edge|corner)\b|\s+of\b|(?=\s*(?:[.,;:!?)]|and\b|$)))",
    re.IGNORECASE | re.MULTILINE,
)
_OTHER = {"left": "right", "right": "left"}


class FreeText:
    """The `freetext` domain."""

    name = "freetext"
    dataset_generator: DatasetGenerator | None = None
    verifier: Verifier | None = None

    def sections(self, caption: str) -> list[Section]:
        """The caption cut at `[Header]` lines, sentence ends and line ends.

        Text before the first header is a section with an empty header. An empty caption has no sections.
        """
        sections: list[Section] = []
        header, sentences = "", list[str]()
        for line in (line.strip() for line in caption.splitlines()):
            if _HEADER.fullmatch(line):
                if header or sentences:
                    sections.append(Section(header, tuple(sentences)))
                header, sentences = line, []
            elif line:
                sentences.extend(_SENTENCE_END.split(line))
        if header or sentences:
            sections.append(Section(header, tuple(sentences)))
        return sections

    def mirrored(self, caption: str) -> str | None:
        """The caption with the sides of the image exchanged (`on the left`, `to the right of`); None if it has another word
        that distinguishes left from right, or may."""
        if _SIDED.search(_SIDE.sub(" ", caption)):
            return None
        return _SIDE.sub(lambda match: f"{match['before']}{_exchanged(match['side'])}{match['after']}", caption)

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """None."""
        return {}

    def check_image(self, image: "Image.Image") -> str | None:
        """Every image can be used."""
        return None


def _exchanged(side: str) -> str:
    """The other side, in the letters of this one: `Left` becomes `Right`."""
    other = _OTHER[side.lower()]
    return other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other


DOMAIN: Domain = FreeText()

CONTRACT = DomainContract(
    captions=("A red vase on a table. Light falls from the left.", "[Room] Two chairs.\nA window.", "강아지 한 마리"),
)
