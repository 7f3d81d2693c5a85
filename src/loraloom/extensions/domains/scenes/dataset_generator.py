"""The dataset generator of the domain.

In: seeds and styles; the empty style is `flat`. Out: captioned images, single or as a folder. The rendering code is
imported at the first image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.extensions.domains.scenes.mirroring import mirrored
from loraloom.extensions.domains.scenes.style_names import STYLES
from loraloom.utils.progress import Progress

if TYPE_CHECKING:  # cutting captions must not import Pillow
    from PIL import Image


class SceneGenerator:
    """The `DatasetGenerator` of scenes."""

    styles: tuple[str, ...] = STYLES
    kinds: Mapping[str, str] = {"scenes": "flat", "styles": "watercolour"}

    def draw(self, seed: int, style: str) -> "tuple[Image.Image, str]":
        """The image of a seed and its caption; see `rendering.synthesize`."""
        from loraloom.extensions.domains.scenes.rendering import synthesize

        made = synthesize(seed, style or "flat")
        return made.image, made.caption

    def paraphrase(self, text: str, seed: int) -> str:
        """The unchanged text: captions are already short and long."""
        return text

    def turned(self, image: "Image.Image", text: str) -> Sequence[str | None]:
        """Scenes have a ground, so only the identity and the mirrored image have a text."""
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
