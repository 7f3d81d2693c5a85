"""Captions by a vision-language model: a prompt with the image, the model's answer is the caption.

In: images, and a prompt in which names can be inserted. Out: captions. Any model opens that transformers knows as
image-text-to-text and that has a chat template: Qwen2.5-VL, Qwen3-VL, LLaVA, InternVL and others, from a hub id or a folder.
"""

from collections.abc import Mapping
from typing import Any

from loraloom.extensions.captioners._models import Kind, TransformersCaptioner
from loraloom.extensions.captioners._tiny import build_llava
from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import ModelCaptioner
from loraloom.protocols.settings import CaptionModel, setting

PROMPTS = {
    "sentence": "Describe this image in one plain sentence. Answer with the description only.",
    "detailed": "Describe this image for a text-to-image model: subject, setting, colours, composition. "
    "Answer with the description only, in at most 60 words.",
    "style-free": "Describe what this image shows in at most 40 words. Do not mention its style, medium or quality. "
    "Answer with the description only.",
    "subject-free": "Describe setting, pose, light and background of this image in at most 40 words, and call the main subject "
    "{trigger}. Do not describe what the subject looks like. Answer with the description only.",
    "tags": "List at most 20 short tags of this image, separated by commas. Answer with the tags only.",
}
"""Prompts by name. `style-free` is for a style, which the trigger shall mean; `subject-free` for a subject."""
_KIND = Kind(classes=(), chat=True)


class VlmSettings(CaptionModel):
    """Settings of the captioner vlm."""

    vlm_prompt: str = setting(
        "detailed",
        "Name of a built-in prompt: sentence, detailed, style-free, subject-free or tags; --caption-prompt overrides it.",
        flag="--vlm-prompt",
        pattern=f"^({'|'.join(PROMPTS)})$",
    )


class Vlm(TransformersCaptioner):
    """The `vlm` captioner."""

    name = "vlm"
    settings = VlmSettings
    default_model = "Qwen/Qwen2.5-VL-3B-Instruct"
    max_side_px = 1024
    kind = _KIND

    def prompt(self, options: Mapping[str, Any]) -> str:
        """The user's, or a built-in one."""
        return super().prompt(options) or PROMPTS[str(options["vlm_prompt"])]


CAPTIONER: ModelCaptioner = Vlm()
CONTRACT = CaptionerContract(
    examples=(
        CaptionExample(options={"caption_max_tokens": 6}, trigger="", item_id="a", caption=None),
        CaptionExample(
            options={"caption_prompt": "What is {folder}?", "caption_max_tokens": 9},
            trigger="",
            item_id="toys/a",
            caption=None,
        ),
    ),
    refused=({"caption_device": "cuda:99"}, {"caption_prompt": "{foldr}"}),
    build_tiny=build_llava,
)
