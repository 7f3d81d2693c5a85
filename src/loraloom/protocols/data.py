"""What travels from a source folder to the loss: `SourceItem`, `Example`, `Batch`; who reads layouts and writes captions."""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from loraloom.protocols.model import Conditioning

if TYPE_CHECKING:  # a verb's --help must not pay for torch
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One image as a `Format` finds it.

    Attributes:
        id: Path below the source or image folder, no suffix, `/` between parts: stable; unique where there is no problem.
        image: The image file.
        caption: The text found for it, exactly as found; None when there is none.
        problem: Why this item cannot be used, short, for the user; `image` is then the file it is about (a text
            without image, a metadata file with a bad row). None when nothing is wrong so far.
        source: The file that `caption` was looked up in, a sidecar or a table; None when there is none.
        notes: What was read in another way than it is written, one line each for the user, the same for the same cause.
    """

    id: str
    image: Path
    caption: str | None
    problem: str | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a prepared dataset's manifest.

    Attributes:
        id: As in `SourceItem`.
        image: Path of the prepared image relative to the dataset folder, `/` between parts.
        caption: The final caption: what the encoder reads.
        caption_found: The caption as found in the source; None when the captioner wrote it.
        split: `train` or `validation`.
        width, height: Of the prepared image, pixels.
        sha256, source_sha256: Of the bytes of the prepared image's file and of the source file.
        source_width, source_height: Of the source image after EXIF rotation, pixels.
        crop: left, top, right, bottom of what was kept, in source pixels.
        scale: Prepared pixels for one source pixel.
        num_tokens: Of the final caption without BOS and EOS; None when no model was named.
    """

    id: str
    image: str
    caption: str
    caption_found: str | None
    split: Literal["train", "validation"]
    width: int
    height: int
    sha256: str
    source_sha256: str
    source_width: int
    source_height: int
    crop: tuple[int, int, int, int]
    scale: float
    num_tokens: int | None


class Format(Protocol):
    """A folder layout. A module exports one as `FORMAT`, and its `FormatContract` as `CONTRACT`.

    One with options of its own has a class of them as `settings` (`protocols.settings`).
    """

    name: str
    expects: str
    """One line for the user: what such a folder holds."""
    priority: int
    """`auto` asks layouts in falling order, the least mistakable first: metadata file 30, paired folders 20, names 10."""

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """Why `folder` has this layout, in a few words for the user with the number of images, or None when it has not."""

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All images, sorted by id, one at a time; opens no image. What cannot be used comes with its `problem`.

        `options` holds at least the values of the format's own settings by key, checked. Files that no item names are
        reported by `prepare`.

        Raises:
            UserError: The folder does not follow the layout (a caption column that is missing, say).
        """


class Captioner(Protocol):
    """Writes a caption where none was found. A module exports one as `CAPTIONER`, and its `CaptionerContract` as `CONTRACT`.

    One with options of its own has a class of them as `settings` (`protocols.settings`).
    """

    name: str

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The caption of an RGB image, which is read from disk only when its pixels are touched.

        The same image, item, options and trigger give the same caption. `options` holds the values of the captioner's own
        settings by key, checked; `prepare` asks again when one of them changes. `trigger` is the user's trigger word, or
        empty; `prepare` puts it before a caption that lacks it.

        Raises:
            UserError: The options ask for what cannot be done.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one device learns from in one forward pass.

    Attributes:
        ids: Sample ids, for messages.
        rng_parts: For each image the parts that decide its random numbers: (seed, epoch, id). The training step
            samples noise and timestep from them.
        latents_bchw: (b, c, h, w) float32 scaled latents.
        conditioning: The final captions' prompt embeddings; those of dropped captions are the empty text's.
        weights_b: (b,) float32: 1, or 0 for the repeats that fill a bucket's tail.
        latent_weights_bhw: (b, h, w) float32: how much latents count, mean 1 in each image; None is all alike.
    """

    ids: tuple[str, ...]
    rng_parts: tuple[tuple[str | int, ...], ...]
    latents_bchw: "Tensor"
    conditioning: Conditioning
    weights_b: "Tensor"
    latent_weights_bhw: "Tensor | None" = None
