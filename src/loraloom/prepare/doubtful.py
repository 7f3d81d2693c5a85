"""Captions that are no captions by their look: a file of another program, an empty cell as programs write it, lost letters.

In: the text found for an image. Out: a note for the user, the kind before a colon and what the text begins with after it.
"""

import re

_SHOWN = 40
_KINDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"\{\\rtf\d?", "RTF"),
        (r"<(?:!doctype\s+html|html[\s>]|head[\s>]|body[\s>])", "HTML"),
        (r"<\?xml[\s?]", "XML"),
        (r"%PDF-", "PDF"),
        (r"%!PS", "PostScript"),
        (r"PK\x03\x04", "a zip or Office file"),
        (r"bplist0|<plist", "a property list"),
        (r"(?:\d+(?:[ \t]+\d*\.\d+){4,}\s*)+\Z", "boxes of a detector"),
        (r"-----BEGIN ", "an encoded file"),
        (r"data:[\w.+-]+/[\w.+-]+[;,]", "an encoded file"),
        (r"version https://git-lfs\.github\.com/", "a pointer of Git LFS"),
    )
)
_EMPTY_CELL = re.compile(
    r"(?:nan|none|null|nil|undefined|n/a|#n/a|<na>|nat|#value!|#ref!|#name\?|#div/0!|#null!|#num!)", re.IGNORECASE
)


def doubt_about(text: str) -> str | None:
    """Why a caption is perhaps none, such as `its caption looks like RTF, not text: {\\rtf1`; None when nothing is odd."""
    bare = text.strip().strip("\ufeff").strip()
    begin = " ".join(bare[:_SHOWN].split())
    for pattern, kind in _KINDS:
        if pattern.match(bare):
            return f"its caption looks like {kind}, not text: {begin}"
    if _EMPTY_CELL.fullmatch(bare):
        return f"its caption is what programs write for an empty cell: {begin}"
    if "\ufffd" in bare:
        return f"its caption has U+FFFD where letters were lost: {begin}"
    controls = sum(not (letter.isprintable() or letter.isspace()) for letter in bare if letter < "\xa0")
    if controls and controls * 20 > len(bare):
        return f"its caption looks like a binary file, not text: {begin!a}"
    return None
