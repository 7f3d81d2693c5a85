"""Captions by BLIP or BLIP-2: one short sentence about what an image shows.

In: images; optionally a prompt. Out: captions. BLIP (Li et al. 2022) continues the prompt, so its caption begins with it;
BLIP-2 (Li et al. 2023) answers it, as in `Question: what is shown? Answer:`. Weights: Salesforce/blip-image-captioning-base
and -large, Salesforce/blip2-opt-2.7b and -flan-t5-xl, or any folder of these classes.
"""

from loraloom.extensions.captioners._models import Kind, TransformersCaptioner
from loraloom.extensions.captioners._tiny import build_blip
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import ModelCaptioner
from loraloom.protocols.settings import CaptionModel

_KIND = Kind(
    classes=(("blip", "BlipForConditionalGeneration"), ("blip-2", "Blip2ForConditionalGeneration")),
    continues=frozenset({"blip"}),
)


class Blip(TransformersCaptioner):
    """The `blip` captioner."""

    name = "blip"
    settings = CaptionModel
    default_model = "Salesforce/blip-image-captioning-large"
    max_side_px = 768
    kind = _KIND


CAPTIONER: ModelCaptioner = Blip()
CONTRACT = CaptionerContract(
    examples=(
        CaptionExample(options={"caption_max_tokens": 6}, trigger="", item_id="a", caption=None),
        CaptionExample(
            options={"caption_prompt": "a photo of", "caption_max_tokens": 6}, trigger="", item_id="a", caption=None
        ),
    ),
    refused=({"caption_device": "cuda:99"}, {"caption_prompt": "{foldr}"}),
    build_tiny=build_blip,
)
