"""Records from a source folder to the loss: `SourceItem`, `Example`, `Batch`; interfaces `Format` and `Captioner`."""

# pyright: reportReturnType=false
# The body of a protocol's method is its docstring.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from loraloom.protocols.model import Conditioning

if TYPE_CHECKING:  # a verb's --help must not import torch
    from PIL import Image
    from torch import Tensor


class ImageData(Protocol):
    """The bytes of an image inside a larger file, such as a tar shard or a Parquet table. It pickles."""

    def read(self, max_bytes: int) -> bytes:
        """The bytes.

        Raises:
            UserError: They are gone, cannot be read, or are more than `max_bytes`.
            OSError: The file cannot be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """One image as a `Format` finds it.

    Attributes:
        id: Path below the source or image folder without suffix, parts separated by `/`; unique among items without problem.
        image: The image file.
        caption: The caption exactly as found; None if there is none.
        problem: Why this item cannot be used, short, for the user; `image` is then the file with the problem (a caption
            without image, a metadata file with a bad row). None if no problem is known.
        source: The file that contains `caption`, a caption file or a table; None if there is none.
        notes: Differences between the file and what was read, one line each for the user; equal causes give equal lines.
        more_captions: Further captions of the image; training takes one of all of them in each epoch.
        data: Reads the image where it lies inside the file `image`; None: `image` is the image file itself.
    """

    id: str
    image: Path
    caption: str | None
    problem: str | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()
    more_captions: tuple[str, ...] = ()
    data: ImageData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a prepared dataset's manifest.

    Attributes:
        id: Id of the `SourceItem`.
        image: Path of the prepared image relative to the dataset folder, parts separated by `/`.
        caption: The final caption, which the text encoder reads.
        caption_found: The caption as found in the source; None if the captioner wrote it.
        split: `train` or `validation`.
        width, height: Size of the prepared image in pixels.
        sha256, source_sha256: Hashes of the prepared image file and of the source file.
        source_width, source_height: Size of the source image in pixels after EXIF rotation.
        crop: left, top, right, bottom of the kept area in source pixels.
        scale: Prepared pixels per source pixel.
        num_tokens: Number of tokens of the final caption without BOS and EOS; None if no model was given.
        repeats: Times that an epoch shows the image, 1 or more.
        weight: Loss weight of the image, above 0.
        batch_size: Images in a forward pass on one device; None is that of the training.
        more_captions: Further final captions; training takes one of `captions` in each epoch.
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
    repeats: int = 1
    weight: float = 1.0
    batch_size: int | None = None
    more_captions: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, the main one first."""
        return (self.caption, *self.more_captions)

    @property
    def named_captions(self) -> list[tuple[str, str]]:
        """All captions, each with a name for messages: the id, then `ID caption 2` and so on."""
        more = [(f"{self.id} caption {number}", text) for number, text in enumerate(self.more_captions, 2)]
        return [(self.id, self.caption), *more]


class Format(Protocol):
    """A folder layout. A module exports one as `FORMAT`, and its `FormatContract` as `CONTRACT`.

    Its settings, if any, are a class in the attribute `settings` (`protocols.settings`).
    """

    name: str
    expects: str
    """One line for the user: the content of such a folder."""
    priority: int
    """`auto` tries layouts in descending order, the most specific first: metadata file 30, paired folders 20, names 10."""

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """Why `folder` has this layout, in a few words for the user with the number of images; None if it has another one."""

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All images, sorted by id; no image is opened. Items that cannot be used have a `problem`.

        `options` contains at least the format's settings by key, already checked. `prepare` reports files that no item
        names.

        Raises:
            UserError: The folder does not have this layout; for example, the caption column is missing.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedImage:
    """One image of a dataset on its way into another layout.

    Attributes:
        id: As in `Example`.
        data: Bytes of its PNG file.
        captions: All captions, the main one first.
        split: `train` or `validation`.
    """

    id: str
    data: bytes
    captions: tuple[str, ...]
    split: str


class WritableFormat(Format, Protocol):
    """A layout that datasets can also be exported to."""

    def write(self, folder: Path, images: Iterator[PackedImage], shard_size: int) -> list[str]:
        """Write images into an empty folder, `shard_size` of them in a file where the layout has such files.

        Images of one split follow each other. Memory is bounded by one shard. Returns lines about what the layout cannot
        hold as it is.

        Raises:
            UserError: A library is missing.
        """


class Captioner(Protocol):
    """Writes captions for images without one. A module exports one as `CAPTIONER`, and its `CaptionerContract` as `CONTRACT`.

    Its settings, if any, are a class in the attribute `settings` (`protocols.settings`).
    """

    name: str

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The caption of an RGB image, which is read from disk only when its pixels are accessed.

        Deterministic in image, item, options and trigger. `options` contains the captioner's settings by key, already
        checked; `prepare` captions again if one of them changes. `trigger` is the user's trigger word, or empty; `prepare`
        prepends it to a caption without it.

        Raises:
            UserError: The options cannot be satisfied.
            RefusedError: It cannot caption this image; the message is the reason (`utils.image_bytes`).
        """


class ModelCaptioner(Captioner, Protocol):
    """A captioner whose captions a neural network writes. Its settings are a subclass of `protocols.settings.CaptionModel`.

    One that requires a library of an extra has pairs of (module, extra) in the attribute `requires`.

    The setting `caption_model` that its methods get is always a local folder: whoever calls them downloads a hub id.
    """

    default_model: str
    """Hub id of the model that is used if the user names none."""
    files: tuple[str, ...]
    """Patterns of the files that are downloaded."""
    max_side_px: int
    """Images may be reduced to this longer side before they are captioned; the network reads fewer pixels."""

    def caption_many(
        self,
        images: "Sequence[Image.Image]",
        items: Sequence[SourceItem],
        options: Mapping[str, Any],
        trigger: str,
        count: int,
        seed: int,
    ) -> list[tuple[str, ...]]:
        """`count` captions of each RGB image, one batch.

        The first caption of an image is its most probable one; it does not depend on `seed`. The others are sampled: each
        image's are a function of (seed, item id), whatever its batch. Equal captions are not removed. An image for which
        the model writes nothing gets an empty tuple.

        Raises:
            UserError: The model cannot be opened, or the options cannot be satisfied.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The training data of one forward pass on one device.

    Attributes:
            ids: Sample ids, for messages.
        rng_parts: For each image the parts that decide its random numbers: (seed, epoch, id), and the number of a
            repetition in that epoch. The training step samples noise and timestep from them.
        latents_bchw: (b, c, h, w) float32 scaled latents.
        conditioning: The final captions' prompt embeddings; those of dropped captions are the empty text's.
        weights_b: (b,) float32: the loss weights, usually 1; 0 for the repeats that complete a bucket's tail.
        latent_weights_bhw: (b, h, w) float32: how much latents count, mean 1 in each image; None is all alike.
    """

    ids: tuple[str, ...]
    rng_parts: tuple[tuple[str | int, ...], ...]
    latents_bchw: "Tensor"
    conditioning: Conditioning
    weights_b: "Tensor"
    latent_weights_bhw: "Tensor | None" = None
