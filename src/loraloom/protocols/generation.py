"""What is asked of a model and what comes back: `ImageRequest` and `Image`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.utils.untrusted import check_text

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """The whole recipe of one image beside model and adapters.

    Attributes:
        prompt, negative_prompt: Text; `(word:1.3)` weighs a word when `weighting` is on.
        seed: Decides the first noise and every later one, whatever the batch.
        guidance_scale: Classifier-free guidance (Ho & Salimans 2022); 1.0 switches it off.
        sampler, num_steps: Name of the solver, and its steps.
        width, height: Pixels, multiples of the model's latent scale.
        expanded_prompt: The prompt with what it leaves open decided (`Verifier.expand_prompt`), for the model alone; empty
            where it is the prompt.
        words: What the user wrote, where the domain made the prompt out of it; empty where it is the prompt.
        loras: Blend of the loaded LoRAs for this image, as text (`lora.blend`), empty for the base alone; None for the one
            that the session has.
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
        """Raise `UserError` for a text that is no text, wherever it came from."""
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            check_text(text, f"the {name}")

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.expanded_prompt or self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """A finished image and its place in the request list."""

    index: int
    request: ImageRequest
    image: "Image.Image"
    seconds: float
