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
from dataclasses import asdict, dataclass, replace
from typing import Literal

from PIL import Image, ImageColor, ImageFile, UnidentifiedImageError

from loraloom.config.pairs import read_folder_sizes
from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.buckets import aspect_buckets, nearest_bucket
from loraloom.prepare.colour import has_transparency, on_background, to_eight_bits, to_srgb
from loraloom.prepare.source_facts import PLAIN, SourceFacts, facts_of
from loraloom.prepare.upscaling import upscaled, upscaler_sha256
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError, check_preview, decodable_formats, what_it_is
from loraloom.utils.saliency import best_start, saliency_map, subject_box

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


Crop = Literal["bucket", "center", "random", "pad", "smart", "subject"]
BUCKETED = frozenset({"bucket", "smart", "subject"})
"""Crops to the nearest of several aspect ratios; the others make a square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """All that decides the pixels of a prepared image; see `PrepareConfig` for the meaning of each."""

    size: int
    crop: Crop
    bucket_step: int
    max_aspect: float
    resample: Literal["lanczos", "bicubic", "box", "nearest"]
    background: tuple[int, int, int]
    min_size: int
    max_megapixels: float
    seed: int
    upscaler: str = ""
    upscaler_sha256: str = ""
    max_enlargement: float | None = None

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "ImageSettings":
        """The settings of one run.

        Raises:
            UserError: The background is no colour, sizes and steps do not fit together, or the upscaler cannot be used.
        """
        try:
            background = ImageColor.getrgb(config.background)[:3]
        except ValueError as error:
            fix = "write it as #rrggbb or by its name"
            raise UserError("background is not a colour", got=config.background, fix=fix) from error
        own = [size for sizes in read_folder_sizes(config.size_of).values() for size in sizes]
        for size in (config.size, *config.also_size, *own):
            if config.crop in BUCKETED:
                aspect_buckets(size, config.bucket_step, config.max_aspect)
            elif size % 8:
                nearest = round(size / 8) * 8
                raise UserError("size", got=size, expected="a multiple of 8", fix=f"use --size {nearest}")
        return cls(
            size=config.size,
            crop=config.crop,
            bucket_step=config.bucket_step if config.crop in BUCKETED else 0,
            max_aspect=config.max_aspect if config.crop in BUCKETED else 0.0,
            resample=config.resample,
            background=(background[0], background[1], background[2]),
            min_size=config.min_size,
            max_megapixels=config.max_megapixels,
            seed=config.seed if config.crop == "random" else 0,
            upscaler=config.upscaler,
            upscaler_sha256=upscaler_sha256(config.upscaler),
            max_enlargement=config.max_enlargement,
        )

    def fingerprint(self) -> str:
        """16 hex digits that change when a prepared image may change."""
        values = asdict(self)
        del values["upscaler"], values["max_enlargement"]  # content counts, not its place; a limit changes no pixel
        if not self.upscaler_sha256:
            del values["upscaler_sha256"]  # datasets from before there were upscalers stay as they are
        text = json.dumps([PIPELINE_VERSION, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image in memory.

    Attributes:
        image: RGB, upright, sRGB; may be smaller than the source when that loses nothing.
        width, height: Size of the upright source in pixels.
        notes: What the user should know though the image is used.
        facts: What the file is.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...]
    facts: SourceFacts = PLAIN


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
    box, (width, height) = choose_crop(decoded, settings, item_id)
    if settings.crop == "pad":
        scale = min(width / decoded.width, height / decoded.height)
        inner = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
        image = Image.new("RGB", (width, height), settings.background)
        image.paste(_resized(decoded, inner, box, settings), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    else:
        scale = width / (box[2] - box[0])
        image = _resized(decoded, (width, height), box, settings)
    return Fitted(image=image, crop=box, scale=scale, notes=quality_notes(decoded, settings, box, scale))


def quality_notes(
    decoded: Decoded, settings: ImageSettings, box: tuple[int, int, int, int], scale: float
) -> tuple[str, ...]:
    """Notes on an image that is much enlarged, or of which much is cut off: what `QUALITY_NOTES` begin with."""
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (decoded.width * decoded.height)
    notes: list[str] = []
    if scale > _MUCH_ENLARGED:
        notes.append(f"{_ENLARGED}: {scale:.1f} times, it is only {decoded.width} x {decoded.height}")
    if kept < _MUCH_CUT and settings.crop != "subject":  # that one is asked to cut off what is not the subject
        notes.append(f"{_CUT}: only {kept:.0%} of it is left after cropping")
    return tuple(notes)


Box = tuple[int, int, int, int]
"""left, top, right, bottom in source pixels."""


def choose_crop(decoded: Decoded, settings: ImageSettings, item_id: str) -> tuple[Box, tuple[int, int]]:
    """The part of an image that is kept, in source pixels, and the size in pixels that it is prepared to."""
    width, height = decoded.width, decoded.height
    if settings.crop == "pad":
        return (0, 0, width, height), (settings.size, settings.size)
    if settings.crop == "subject":
        return _subject_crop(decoded, settings)
    target = target_size(width, height, settings)
    box_width, box_height = _largest(width, height, target[0] / target[1])
    spare_x, spare_y = width - box_width, height - box_height
    left, top = spare_x // 2, spare_y // 2
    if settings.crop == "random":
        rng = random.Random(hashlib.sha256(f"{settings.seed}:{item_id}".encode()).digest())
        left, top = rng.randint(0, spare_x), rng.randint(0, spare_y)
    elif settings.crop == "smart" and (spare_x or spare_y):
        saliency = saliency_map(decoded.image)
        left = min(spare_x, round(width * best_start(saliency.sum(axis=0), box_width / width)))
        top = min(spare_y, round(height * best_start(saliency.sum(axis=1), box_height / height)))
    return (left, top, left + box_width, top + box_height), target


def _subject_crop(decoded: Decoded, settings: ImageSettings) -> tuple[Box, tuple[int, int]]:
    """The box around what stands out, grown to the aspect ratio of its bucket and to pixels enough not to be enlarged."""
    width, height = decoded.width, decoded.height
    edges = subject_box(saliency_map(decoded.image))
    left, top, right, bottom = edges[0] * width, edges[1] * height, edges[2] * width, edges[3] * height
    target = target_size(max(1, round(right - left)), max(1, round(bottom - top)), settings)
    aspect = target[0] / target[1]
    grown = max(right - left, (bottom - top) * aspect, target[0])
    most_width, most_height = _largest(width, height, aspect)
    box_width = min(most_width, max(1, round(grown)))
    box_height = min(most_height, max(1, round(box_width / aspect)))
    begin_x = min(max(0, round((left + right - box_width) / 2)), width - box_width)
    begin_y = min(max(0, round((top + bottom - box_height) / 2)), height - box_height)
    return (begin_x, begin_y, begin_x + box_width, begin_y + box_height), target


def target_size(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """Width and height that a source of this size is prepared to, pixels."""
    if settings.crop not in BUCKETED:
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
    facts = facts_of(image)
    if facts.frames > 1:
        notes.append("animated: only its first frame is used")
    if settings.resample != "nearest" and settings.crop != "subject":
        _draft(image, settings)
    image.load()
    loaded, turn = _upright(image, notes)
    if turn in _QUARTER_TURNS:
        width, height = height, width
    loaded = to_eight_bits(loaded, notes)
    loaded = to_srgb(loaded, image.info.get("icc_profile"), notes)
    facts = replace(facts, turned=turn is not None, transparent=has_transparency(loaded))
    if facts.transparent:
        loaded = on_background(loaded, settings.background)
        if loaded is None:
            raise RefusedError("wholly transparent")
    if loaded.mode != "RGB":
        loaded = loaded.convert("RGB")
    return Decoded(image=loaded, width=width, height=height, notes=tuple(notes), facts=facts)


def _draft(image: Image.Image, settings: ImageSettings) -> None:
    """Let the JPEG decoder leave out what the resize would throw away."""
    target = target_size(*image.size, settings)
    scale = _DRAFT_GAP * max(target[0] / image.width, target[1] / image.height)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Transpose | None]:
    """The image turned as its EXIF says, and how; None when it is upright.

    Read after loading: Pillow turns TIFF files itself, size included, and takes the tag away.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # metadata is no reason to lose an image
        notes.append("its EXIF data cannot be read: not rotated")
        return image, None
    return (image if turn is None else image.transpose(turn)), turn


def _largest(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Sides of the largest box of an aspect ratio inside the source, whole pixels."""
    box_width, box_height = (width, min(height, round(width / aspect)))
    if width > height * aspect:
        box_width, box_height = min(width, round(height * aspect)), height
    return max(1, box_width), max(1, box_height)


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
    if settings.upscaler and size[0] > box[2] - box[0]:
        image = upscaled(image.crop(box), settings.upscaler)
        own_box = (0, 0, *image.size)
    gap = None if settings.resample == "nearest" else _REDUCING_GAP
    return image.resize(size, _FILTERS[settings.resample], box=own_box, reducing_gap=gap)


def _short(error: Exception) -> str:
    """One line for the user from a decoder's exception."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or "premature" in text.lower():
        return "truncated: the file ends before the image does"
    return f"broken: {text[:120]}"
