"""Contract examples: what an extension gives to the test suite of its kind, as `CONTRACT` beside the extension.

In: nothing. Out: small records that say how to make what the extension reads, and what it has to answer. With them the
suites in `tests/contract/` test an extension that they do not know, ours or another package's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SaveImage = Callable[[Path], None]
"""Writes a small image, another one each time, and makes its folder. Suffix of the path: `.png`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatContract:
    """Of a `Format`.

    Attributes:
        write: Writes a folder of this layout. Given: an empty folder; the captions by image id (`a`, `sub/c`), to be found
            again exactly; a function that writes an image. The last part of an image file's name is that of the id.
    """

    write: Callable[[Path, Mapping[str, str], SaveImage], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionExample:
    """What a captioner writes.

    Attributes:
        options: Its own settings that differ from their defaults.
        trigger: The trigger word; may be empty.
        item_id: Id of the image; its file is `<item_id>.png`.
        caption: The exact answer; None where only the rules of every captioner hold.
    """

    options: Mapping[str, Any]
    trigger: str
    item_id: str
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerContract:
    """Of a `Captioner`.

    Attributes:
        examples: At least one; no two of one captioner with settings give the same caption.
        refused: Options with which it raises `UserError`.
    """

    examples: tuple[CaptionExample, ...]
    refused: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainContract:
    """Of a `Domain`.

    Attributes:
        captions: Texts of this domain, at least one.
        image_size: Width and height of what its artist draws, pixels; None without one.
        hopeless: Texts in which its judge finds something wrong; at least one where there is a judge.
    """

    captions: tuple[str, ...]
    image_size: tuple[int, int] | None = None
    hopeless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricContract:
    """Of an `EvaluationMetric`.

    Attributes:
        figures: Names of all figures that it gives, in order.
    """

    figures: tuple[str, ...]
