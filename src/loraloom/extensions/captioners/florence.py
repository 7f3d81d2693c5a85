"""Captions by Florence-2: a sentence, or a paragraph of detail, by one of its tasks.

In: images. Out: captions. The setting `florence_detail` chooses the task: CAPTION, DETAILED_CAPTION or MORE_DETAILED_CAPTION
(Xiao et al. 2024). Weights: florence-community/Florence-2-base and -large (-ft), which transformers opens without code of
the model's own; microsoft/Florence-2-* ask for such code and are refused.
"""

from collections.abc import Mapping
from typing import Any, Literal

from loraloom.extensions.captioners._models import Kind, TransformersCaptioner
from loraloom.extensions.captioners._tiny import build_florence
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import ModelCaptioner
from loraloom.protocols.settings import CaptionModel, setting

_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "long": "<MORE_DETAILED_CAPTION>"}
_KIND = Kind(classes=(("florence2", "Florence2ForConditionalGeneration"),))


class FlorenceSettings(CaptionModel):
    """Settings of the captioner florence."""

    florence_detail: Literal["short", "detailed", "long"] = setting(
        "detailed",
        "Length of the captions of Florence-2: a sentence, several, or a paragraph; --caption-prompt overrides it.",
        flag="--florence-detail",
    )


class Florence(TransformersCaptioner):
    """The `florence` captioner."""

    name = "florence"
    settings = FlorenceSettings
    default_model = "florence-community/Florence-2-base"
    max_side_px = 1024
    kind = _KIND

    def prompt(self, options: Mapping[str, Any]) -> str:
        """The user's, or the task of the wanted length."""
        return super().prompt(options) or _TASKS[str(options["florence_detail"])]


CAPTIONER: ModelCaptioner = Florence()
CONTRACT = CaptionerContract(
    examples=(
        CaptionExample(options={"caption_max_tokens": 6}, trigger="", item_id="a", caption=None),
        CaptionExample(
            options={"florence_detail": "long", "caption_max_tokens": 9}, trigger="", item_id="a", caption=None
        ),
    ),
    refused=({"caption_device": "cuda:99"}, {"caption_prompt": "{foldr}"}),
    build_tiny=build_florence,
)
