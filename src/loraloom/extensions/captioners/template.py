"""Captions from a template: the same words for every image, with names inserted.

In: a source item and a template such as `a photo of {trigger} {folder}`. Out: the caption. `_placeholders` lists the names.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loraloom.extensions.captioners._placeholders import filled
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import Captioner, SourceItem
from loraloom.protocols.settings import Settings, setting

if TYPE_CHECKING:
    from PIL import Image


class TemplateSettings(Settings):
    """Settings of the captioner template."""

    caption_template: str = setting(
        "a photo of {trigger}",
        "Caption of images without text; {trigger}, {folder}, {stem}, {tags}, {text} and {id} are replaced.",
        flag="--caption",
    )


class Template:
    """The `template` captioner. It does not open the image."""

    name = "template"
    settings = TemplateSettings

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The option `caption_template` with its placeholders replaced.

        Raises:
            UserError: As `filled`.
        """
        return filled(str(options["caption_template"]), item, trigger, flag="--caption")


CAPTIONER: Captioner = Template()
CONTRACT = CaptionerContract(
    examples=(
        CaptionExample(
            options={"caption_template": "a photo of {trigger}"},
            trigger="sks",
            item_id="toys/red_car/1",
            caption="a photo of sks",
        ),
        CaptionExample(
            options={"caption_template": "{folder}, {stem}"}, trigger="", item_id="toys/red_car/1", caption="red car, 1"
        ),
        CaptionExample(
            options={"caption_template": "{tags}: {stem}"},
            trigger="",
            item_id="10_toys/red-car/1",
            caption="toys, red car: 1",
        ),
    ),
    refused=({"caption_template": "a {foldr}"}, {"caption_template": "a {folder"}),
)
