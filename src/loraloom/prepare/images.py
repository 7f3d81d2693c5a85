"""One image file to pixels, and pixels to the size that is learned from.

In: the bytes of a file that somebody else made. Out: an upright RGB image in sRGB on the background colour, cropped
and resized, with the record of what was done; or `RefusedError` with a short reason. Size limits are checked before a
pixel is decoded, and no fault of a file gets further than `RefusedError`.
"""

import hashlib
import io
import json
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from PIL import Image, ImageColor, ImageFile, UnidentifiedImageError

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.buckets import aspect_buckets, nearest_bucket
from loraloom.prepare.colour import has_transparency, on_background, to_eight_bits, to_srgb
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError, check_preview, decodable_formats, what_it_is

PIPELINE_VERSION = 1
"""Raised when the same file and settings would give other pixels: old rows are then made anew."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = {_TURNS[tag] for tag in (5, 6, 7, 8)}
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
_DRAFT_GAP = 2.0
"""A JPEG is decoded smaller only down to this many times the wanted size, as in Pillow's thumbnails."""
_REDUCING_GAP = 3.0
"""Whole-number reduction before the filter, down to this many times the wanted size: no difference that can be seen."""
_MUCH_ENLARGED = 2.0
_MUCH_CUT = 0.7
_ENLARGED = f"enlarged more than {_MUCH_ENLARGED:g} times"
_CUT = f"more than {1 - _MUCH_CUT:.0%} is cut off"
QUALITY_NOTES = (_ENLARGED, _CUT)
"""Notes on what the settings ask for; all other notes are on something that was read in another way than it is written.
What stands before the colon of a note is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """All that decides the pixels of a prepared image; see `PrepareConfig` for the meaning of each."""

    size: int
    crop: Literal["bucket", "center", "random", "pad"]
    bucket_step: int
    max_aspect: float
    resample: Literal["lanczos", "bicubic", "box", "nearest"]
    background: tuple[int, int, int]
    min_size: int
    max_megapixels: float
    seed: int

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ImageSettings":
        """The settings of one run.

        Raises:
            UserError: The background is no colour, or sizes and steps do not fit together.
        """
        try:
            background = ImageColor.getrgb(config.background)[:3]
        except ValueError as error:
            fix = "write it as #rrggbb or by its name"
            raise UserError("background is not a colour", got=config.background, fix=fix) from error
        if config.crop == "bucket":
            aspect_buckets(config.size, config.bucket_step, config.max_aspect)
        elif config.size % 8:
            nearest = round(config.size / 8) * 8
            raise UserError("size", got=config.size, expected="a multiple of 8", fix=f"use --size {nearest}")
        return cls(
            size=config.size,
            crop=config.crop,
            bucket_step=config.bucket_step if config.crop == "bucket" else 0,
            max_aspect=config.max_aspect if config.crop == "bucket" else 0.0,
            resample=config.resample,
            background=(background[0], background[1], background[2]),
            min_size=config.min_size,
            max_megapixels=config.max_megapixels,
            seed=config.seed if config.crop == "random" else 0,
        )

    def fingerprint(self) -> str:
        """16 hex digits that change when a prepared image may change."""
        text = json.dumps([PIPELINE_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image in memory.

    Attributes:
        image: RGB, upright, sRGB; may be smaller than the source when that loses nothing.
        width, height: Size of the upright source in pixels.
        notes: What the user should know though the image is used.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """An image of the wanted size.

    Attributes:
        image: RGB.
        crop: left, top, right, bottom of what was kept, in source pixels.
        scale: Prepared pixels for one source pixel.
        notes: As in `Decoded`.
    """

    image: Image.Image
    crop: tuple[int, int, int, int]
    scale: float
    notes: tuple[str, ...]


def decode(data: bytes, settings: ImageSettings) -> Decoded:
    """Decode a file's bytes.

    Raises:
        RefusedError: Empty, not an image, of a kind that is not decoded, broken, too large (according to the header
            alone), too small, wholly transparent, or a JPEG of too many scans.
    """
    formats = decodable_formats(data)
    with _own_limits():
        try:
            with Image.open(io.BytesIO(data), formats=formats) as image:
                return _decode(image, settings)
        except RefusedError:
            raise
        except UnidentifiedImageError:
            raise RefusedError(what_it_is(data)) from None
        # Decoders meet hostile bytes with nearly every exception there is; each is this file's fault, not ours.
        except Exception as error:
            raise RefusedError(_short(error)) from error


def fit(decoded: Decoded, settings: ImageSettings, item_id: str) -> Fitted:
    """Crop and resize to the size that `settings` ask for; a random crop is a function of (seed, id)."""
    width, height = target_size(decoded.width, decoded.height, settings)
    if settings.crop == "pad":
        scale = min(width / decoded.width, height / decoded.height)
        inner = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
        box = (0, 0, decoded.width, decoded.height)
        image = Image.new("RGB", (width, height), settings.background)
        image.paste(_resized(decoded, inner, box, settings), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    else:
        box = _crop_box(decoded.width, decoded.height, width / height, settings, item_id)
        scale = width / (box[2] - box[0])
        image = _resized(decoded, (width, height), box, settings)
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (decoded.width * decoded.height)
    notes: list[str] = []
    if scale > _MUCH_ENLARGED:
        notes.append(f"{_ENLARGED}: {scale:.1f} times, it is only {decoded.width} x {decoded.height}")
    if kept < _MUCH_CUT:
        notes.append(f"{_CUT}: only {kept:.0%} of it is left after cropping")
    return Fitted(image=image, crop=box, scale=scale, notes=tuple(notes))


def target_size(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """Width and height that a source of this size is prepared to, pixels."""
    if settings.crop != "bucket":
        return settings.size, settings.size
    buckets = aspect_buckets(settings.size, settings.bucket_step, settings.max_aspect)
    return nearest_bucket(width, height, buckets)


def thumbnail_bytes(image: Image.Image, side_px: int = 160) -> bytes:
    """The image as a small JPEG for a report, its longer side about `side_px`."""
    small = image.reduce(max(1, round(max(image.size) / side_px)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@contextmanager
def _own_limits() -> Iterator[None]:
    """Pillow's own pixel limit steps aside for ours, which is checked first, and its warnings are ours to phrase."""
    limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


def _decode(image: Image.Image, settings: ImageSettings) -> Decoded:
    width, height = image.size
    if width * height > settings.max_megapixels * 1e6:
        size = f"{width} x {height} is {width * height / 1e6:,.0f} megapixels"
        raise RefusedError(f"too large: {size}, the limit is {settings.max_megapixels:g} (--max-megapixels)")
    if min(width, height) < settings.min_size:
        raise RefusedError(f"too small: {width} x {height}, the shorter side must be {settings.min_size} (--min-size)")
    check_preview(image)
    notes: list[str] = []
    if image.format != "MPO" and getattr(image, "is_animated", False):
        notes.append("animated: only its first frame is used")
    if settings.resample != "nearest":
        _draft(image, settings)
    image.load()
    loaded, quarter_turn = _upright(image, notes)
    if quarter_turn:
        width, height = height, width
    loaded = to_eight_bits(loaded, notes)
    loaded = to_srgb(loaded, image.info.get("icc_profile"), notes)
    if has_transparency(loaded):
        loaded = on_background(loaded, settings.background)
        if loaded is None:
            raise RefusedError("wholly transparent")
    if loaded.mode != "RGB":
        loaded = loaded.convert("RGB")
    return Decoded(image=loaded, width=width, height=height, notes=tuple(notes))


def _draft(image: Image.Image, settings: ImageSettings) -> None:
    """Let the JPEG decoder leave out what the resize would throw away."""
    target = target_size(*image.size, settings)
    scale = _DRAFT_GAP * max(target[0] / image.width, target[1] / image.height)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, bool]:
    """The image turned as its EXIF says, and whether by a quarter.

    Read after loading: Pillow turns TIFF files itself, size included, and takes the tag away.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # metadata is no reason to lose an image
        notes.append("its EXIF data cannot be read: not rotated")
        return image, False
    return (image, False) if turn is None else (image.transpose(turn), turn in _QUARTER_TURNS)


def _crop_box(
    width: int, height: int, aspect: float, settings: ImageSettings, item_id: str
) -> tuple[int, int, int, int]:
    """The largest box of the wanted aspect ratio inside the source, whole pixels."""
    box_width, box_height = (width, min(height, round(width / aspect)))
    if width > height * aspect:
        box_width, box_height = min(width, round(height * aspect)), height
    box_width, box_height = max(1, box_width), max(1, box_height)
    spare_x, spare_y = width - box_width, height - box_height
    if settings.crop == "random":
        digest = hashlib.sha256(f"{settings.seed}:{item_id}".encode()).digest()
        rng = random.Random(digest)
        left, top = rng.randint(0, spare_x), rng.randint(0, spare_y)
    else:
        left, top = spare_x // 2, spare_y // 2
    return left, top, left + box_width, top + box_height


def _resized(
    decoded: Decoded, size: tuple[int, int], box: tuple[int, int, int, int], settings: ImageSettings
) -> Image.Image:
    """`box` of the source as an image of `size`; the decoded image may be smaller than the source."""
    image = decoded.image
    across, down = image.width / decoded.width, image.height / decoded.height
    left, top, right, bottom = box
    own_box = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    if own_box == (0, 0, *size) and image.size == size:
        return image
    gap = None if settings.resample == "nearest" else _REDUCING_GAP
    return image.resize(size, _FILTERS[settings.resample], box=own_box, reducing_gap=gap)


def _short(error: Exception) -> str:
    """One line for the user from a decoder's exception."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or "premature" in text.lower():
        return "truncated: the file ends before the image does"
    return f"broken: {text[:120]}"
