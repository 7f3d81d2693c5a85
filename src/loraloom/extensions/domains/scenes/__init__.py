"""Simple scenes that this project draws itself: houses, cars, people, streets, each with a caption that is true.

In: a caption of such a scene. Out: its sentences, and its mirror image's caption; `artist` draws captioned pictures.
"""

import re
from collections.abc import Sequence

from loraloom.contracts import Domain, Section
from loraloom.extensions.domains.scenes.artist import SceneArtist
from loraloom.verdicts import Artist, Judge, Metric

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
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


class Scenes:
    """The `scenes` domain."""

    name = "scenes"
    artist: Artist | None = SceneArtist()
    judge: Judge | None = None
    metrics: Sequence[Metric] = ()

    def sections(self, caption: str) -> list[Section]:
        """One section without a header that holds the caption's sentences; none for an empty caption."""
        text = caption.strip()
        return [Section("", tuple(_SENTENCE_END.split(text)))] if text else []

    def mirrored(self, caption: str) -> str | None:
        """The caption with left and right exchanged; None where a word about sides is none that `draw` writes."""
        if _UNKNOWN.search(_SIDE.sub("", caption)):
            return None

        def other(match: re.Match[str]) -> str:
            side = match["side"]
            swapped = _OTHER[side.lower()]
            return match["before"] + (swapped.capitalize() if side[0].isupper() else swapped)

        return _SIDE.sub(other, caption)


DOMAIN: Domain = Scenes()
