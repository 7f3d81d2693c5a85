"""Mirror a scene's caption: exchange left and right.

In: a caption. Out: the caption of the mirrored image, or None if it cannot be derived from the words.
"""

import re

# Only where "left" and "right" are sides: "right behind" and "he left" are not.
_SIDE = re.compile(
    r"\b(?P<before>(?:on|to|at|from|in|towards)\s+the\s+(?:far\s+|upper\s+|lower\s+)?|facing\s+)(?P<side>left|right)\b",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"\b(?:left|right|east|west|(?:north|south)(?:east|west)|\w*clockwise|text|letters?|words?|reads|written|writing"
    r"|numbers?|digits?|logo|sign|port|starboard)|leftmost|rightmost|[\"“”]",
    re.IGNORECASE,
)
_OTHER = {"left": "right", "right": "left"}


def mirrored(caption: str) -> str | None:
    """The caption with left and right exchanged; None if it has a word about sides outside the captions' grammar."""
    if _UNKNOWN.search(_SIDE.sub("", caption)):
        return None

    def other(match: re.Match[str]) -> str:
        side = match["side"]
        swapped = _OTHER[side.lower()]
        return match["before"] + (swapped.capitalize() if side[0].isupper() else swapped)

    return _SIDE.sub(other, caption)
