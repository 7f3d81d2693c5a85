"""Simple synthetic scenes: houses, cars, people, streets, each with a true caption.

In: a caption of a scene. Out: its sentences, and the caption of the mirrored image. `dataset_generator` synthesizes
captioned images.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from loraloom.extensions.domains.scenes.dataset_generator import SceneGenerator
from loraloom.extensions.domains.scenes.mirroring import mirrored
from loraloom.protocols.contracts import DomainContract
from loraloom.protocols.domain import DatasetGenerator, Domain, Section, Verifier

if TYPE_CHECKING:
    from PIL import Image

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Scenes:
    """The `scenes` domain."""

    name = "scenes"
    dataset_generator: DatasetGenerator | None = SceneGenerator()
    verifier: Verifier | None = None

    def sections(self, caption: str) -> list[Section]:
        """One section without a header that contains the caption's sentences; none for an empty caption."""
        text = caption.strip()
        return [Section("", tuple(_SENTENCE_END.split(text)))] if text else []

    def mirrored(self, caption: str) -> str | None:
        """The caption with left and right exchanged; None if it has a word about sides outside the captions' grammar."""
        return mirrored(caption)

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """Empty: a scene has no fixed colours."""
        return {}

    def check_image(self, image: "Image.Image") -> str | None:
        """Every image can be used."""
        return None


DOMAIN: Domain = Scenes()

CONTRACT = DomainContract(
    captions=("A red house. A tree is left of the house.", "two people in a street"), image_size=(256, 256)
)
