"""Captions from a template: the same words for every image, with names inserted.

In: a source item and a template such as `a photo of {trigger} {folder}`. Out: the caption. `{folder}` is the name of
the image's folder and `{stem}` its file name without suffix; in both, underscores and dashes become blanks. `{id}` is
the unchanged id, `{trigger}` the trigger word.
"""

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import Captioner, SourceItem
from loraloom.protocols.settings import Settings, setting
from loraloom.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image

PLACEHOLDERS = ("trigger", "folder", "stem", "id")


class TemplateSettings(Settings):
    """Settings of the captioner template."""

    caption_template: str = setting(
        "a photo of {trigger}", "caption of images without text; {trigger}, {folder}, {stem}, {id}", flag="--caption"
    )


class Template:
    """The `template` captioner. It does not open the image."""

    name = "template"
    settings = TemplateSettings

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The option `caption_template` with its placeholders replaced; `{{` and `}}` stand for braces.

        Raises:
            UserError: A placeholder is unknown, a brace has no counterpart, or `{trigger}` is used and there is no trigger.
        """
        template = str(options["caption_template"])
        values = {
            "trigger": trigger,
            "folder": _words(item.image.parent.name),
            "stem": _words(item.image.stem),
            "id": item.id,
        }
        return "".join(literal + (values[name] if name else "") for literal, name in _parts(template, trigger))


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def _parts(template: str, trigger: str) -> list[tuple[str, str | None]]:
    """Literal text and the placeholder after it; `str.format` itself would let a template read attributes of
    objects."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            "the caption template has an unmatched brace",
            got=template,
            fix="write {{ and }} for literal braces",
        ) from error
    parts: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            raise UserError(
                "the caption template has an unknown placeholder",
                got=f"{{{name}}}",
                expected=", ".join(f"{{{known}}}" for known in PLACEHOLDERS),
                fix=did_you_mean(name, PLACEHOLDERS),
            )
        if name == "trigger" and not trigger:
            raise UserError(
                "the caption template has {trigger}, but there is no trigger word",
                got=template,
                fix="name one with --trigger, or write another --caption: 'a photo of {folder}'",
            )
        parts.append((literal, name))
    return parts


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
    ),
    refused=({"caption_template": "a {foldr}"}, {"caption_template": "a {folder"}),
)
