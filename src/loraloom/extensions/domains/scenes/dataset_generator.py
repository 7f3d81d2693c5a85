"""The domain's hand as the rest of the program knows it.

In: seeds and styles; the empty style is `flat`. Out: captioned images, alone or as a folder. What draws is imported when
something is drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.extensions.domains.scenes.mirroring import mirrored
from loraloom.extensions.domains.scenes.style_names import STYLES
from loraloom.utils.progress import Progress

if TYPE_CHECKING:  # who only cuts captions must not pay for Pillow
    from PIL import Image


class SceneGenerator:
    """An `DatasetGenerator`."""

    styles: tuple[str, ...] = STYLES
    kinds: Mapping[str, str] = {"scenes": "flat", "styles": "watercolour"}

    def draw(self, seed: int, style: str) -> "tuple[Image.Image, str]":
        """The image of a seed and its caption; see `drawing.draw`."""
        from loraloom.extensions.domains.scenes.drawing import draw

        drawn = draw(seed, style or "flat")
        return drawn.image, drawn.caption

    def paraphrase(self, text: str, seed: int) -> str:
        """The text itself: captions are drawn short and long as they are."""
        return text

    def turned(self, image: "Image.Image", text: str) -> Sequence[str | None]:
        """Scenes stand on the ground: as they are, or mirrored."""
        return [text, None, None, None, mirrored(text), None, None, None]

    def facts(self, text: str) -> list[tuple[str, str, str]]:
        """See `facts.facts`."""
        from loraloom.extensions.domains.scenes.facts import facts

        return facts(text)

    def write_dataset(
        self, folder: Path, count: int, *, seed: int = 0, style: str = "", progress: Progress | None = None
    ) -> None:
        """See `dataset.write_dataset`."""
        from loraloom.extensions.domains.scenes.dataset import write_dataset

        write_dataset(folder, count, seed, style or "flat", progress)
