"""Cut a structured text at its natural borders, for windows of a text encoder.

In: a caption, well formed or not. Out: sections of whole sentences. The file form and the one-line form of a text give
the same sections; nothing is parsed, so a text with a mistake is cut as well as possible and never refused.
"""

import re

from loraloom.protocols.domain import Section

_HEADER = re.compile(
    r"(?<!\S)\[[^\[\]]*\](?!\S)"
)  # without a blank before or after it is no header: cutting there would add one
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LINE_END = re.compile(r"(?<=[.!?])\s+|[\r\n]+")
_KNOWN = ("[number and type of rooms]", "[connection between rooms]", "[positional relationship between rooms]")


def sections_of(text: str) -> list[Section]:
    """Headers with their sentences, white space inside them made single blanks.

    The text before the first `[Header]` (the style's words) is a section with the empty header. The counts are one
    sentence. Joined by blanks, the parts are the text up to white space, for any text.
    """
    marks = list(_HEADER.finditer(text))
    ends = [*(mark.start() for mark in marks), len(text)]
    sections: list[Section] = []
    if lead := _sentences(text[: ends[0]], _LINE_END):
        sections.append(Section("", lead))
    for mark, end in zip(marks, ends[1:], strict=True):
        header = " ".join(mark[0].split())
        # Sentences of the format end in periods and may be wrapped; in other texts a line's end is a border too.
        border = _SENTENCE_END if header.lower() in _KNOWN else _LINE_END
        sections.append(Section(header, _sentences(text[mark.end() : end], border)))
    return sections


def _sentences(body: str, border: re.Pattern[str]) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in border.split(body))
    return tuple(part for part in parts if part)
