"""Contract examples: what an extension gives to the test suite of its kind, as `CONTRACT` beside the extension.

In: nothing. Out: small records that describe example inputs of an extension and the expected results. With them the
suites in `tests/contract/` test any extension, ours or another package's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SaveImage = Callable[[Path], None]
"""Writes a small image, a different one each time, and creates its folder. Suffix of the path: `.png`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatContract:
    """Contract example of a `Format`.

    Attributes:
        write: Writes a folder of this layout. Arguments: an empty folder; image id (`a`, `sub/c`) -> caption, which must be
            read back exactly; a function that writes an image. An image file has the name of the last part of its id.
        packed: Whether images lie inside larger files, so that there are no image files.
        needs: Modules without which its tests are skipped, such as those of an extra.
    """

    write: Callable[[Path, Mapping[str, str], SaveImage], None]
    packed: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionExample:
    """A caption that a captioner must write.

    Attributes:
        options: Settings of the captioner that differ from their defaults.
        trigger: The trigger word; may be empty.
        item_id: Id of the image; its file is `<item_id>.png`.
        caption: The exact caption; None: only the rules of all captioners are tested.
    """

    options: Mapping[str, Any]
    trigger: str
    item_id: str
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerContract:
    """Contract example of a `Captioner`.

    Attributes:
        examples: At least one; no two of one captioner with settings give the same caption.
        refused: Settings with which it raises `UserError`.
        build_tiny: Writes a tiny model of random weights into an empty folder, so that the captioner's real classes are
            tested; None if it has no model.
        needs: Modules without which its tests are skipped, such as those of an extra.
        render: Renders the image of the examples; None: any image will do. Other images may be refused by `RefusedError`.
    """

    examples: tuple[CaptionExample, ...]
    refused: tuple[Mapping[str, Any], ...] = ()
    build_tiny: Callable[[Path], None] | None = None
    needs: tuple[str, ...] = ()
    render: "Callable[[], Image.Image] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainContract:
    """Contract example of a `Domain`.

    Attributes:
        captions: Captions of this domain, at least one.
        image_size: Width and height in pixels of the images of its dataset generator; None without one.
        hopeless: Prompts in which its verifier finds a problem; at least one if there is a verifier.
    """

    captions: tuple[str, ...]
    image_size: tuple[int, int] | None = None
    hopeless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricContract:
    """Contract of an `EvaluationMetric`.

    Attributes:
        figures: Names of all figures that it gives, in order.
    """

    figures: tuple[str, ...]
