"""Records of image generation: `ImageRequest` and `GeneratedImage`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.utils.untrusted import check_text

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """All settings of one image except model and adapters.

    Attributes:
        prompt, negative_prompt: Texts; `(word:1.3)` emphasises a word if `weighting` is on.
        seed: Seed of the initial and all later noise, independent of the batch.
        guidance_scale: Classifier-free guidance (Ho & Salimans 2022); 1.0: off.
        sampler, num_steps: Name of the sampler, and its number of steps.
        width, height: Size in pixels, multiples of the model's `size_multiple`.
        expanded_prompt: The expanded prompt (`Verifier.expand_prompt`), which only the model reads; empty: the prompt.
        words: The prompt as the user wrote it, if the domain rewrote it; empty: the prompt.
        loras: Blend of the loaded LoRAs for this image, as text (see `lora.blend`); empty for the base model alone, None for
            the blend of the session.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    num_steps: int = 25
    guidance_scale: float = 7.5
    sampler: str = "dpmpp_2m_karras"
    width: int = 512
    height: int = 512
    expanded_prompt: str = ""
    words: str = ""
    loras: str | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` for a prompt that is not valid UTF-8."""
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            check_text(text, f"the {name}")

    @property
    def text(self) -> str:
        """The prompt that the model reads."""
        return self.expanded_prompt or self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """A finished image, the index of its request, and the seconds that it took."""

    index: int
    request: ImageRequest
    image: "Image.Image"
    seconds: float
