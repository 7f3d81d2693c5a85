"""Captions of plan images, read from their pixels: every room, connection and position, exact.

In: images of plans in the colours of a known style. Out: the structured text that is true of each, by the reader and the
annotator's rule of the domain floorplan. An image that is no plan is refused with the reason, never guessed at.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loraloom import plugins
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import Captioner, SourceItem
from loraloom.protocols.domain import DescribingDomain

if TYPE_CHECKING:
    from PIL import Image


class FloorPlan:
    """The `floorplan` captioner."""

    name = "floorplan"

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The text of the plan.

        Raises:
            RefusedError: The image shows no plan, or has colours of no known style.
        """
        domain: DescribingDomain = plugins.load("domains", "floorplan")
        return domain.describe(image)


def _render() -> "Image.Image":
    generator = plugins.load("domains", "floorplan").dataset_generator
    return generator.draw(1, "")[0]


CAPTIONER: Captioner = FloorPlan()
CONTRACT = CaptionerContract(
    examples=(CaptionExample(options={}, trigger="", item_id="plan", caption=None),),
    render=_render,
)
