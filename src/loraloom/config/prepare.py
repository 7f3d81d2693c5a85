"""Settings of `prepare`, which makes a dataset of a raw folder."""

from typing import Literal

from pydantic import model_validator

from loraloom.config.base import setting
from loraloom.config.extending import Extended
from loraloom.config.pairs import read_folder_numbers, read_folder_sizes

MAX_REPEATS = 10_000
"""Times that an epoch may show an image."""
MAX_WEIGHT = 1000.0
"""Largest loss weight of an image."""
MAX_BATCH_SIZE = 4096
"""Images in one forward pass on one device."""


class PrepareConfig(Extended):
    """How images and captions are read, changed and split.

    An instance also has every setting that a format, captioner or domain declares.
    """

    verb = "prepare"
    extension_kinds = ("formats", "captioners", "domains")

    format: str = setting("auto", "Folder layout; auto detects it.", flag="--format")
    domain: str = setting("freetext", "Domain of the captions.", flag="--domain")
    size: int = setting(
        512, "Side in pixels of the square whose area a prepared image has.", flag="--size", ge=16, le=4096
    )
    also_size: tuple[int, ...] = setting(
        (),
        "Also prepare each image at this side in pixels, as a row of its own, if it is not enlarged for it; may be repeated.",
        flag="--also-size",
    )
    size_of: tuple[str, ...] = setting(
        (),
        "Sides in pixels at which the images of a folder are prepared instead of --size and --also-size, as FOLDER=768 or "
        "FOLDER=512,768; images are not enlarged for a side after the first.",
        flag="--size-of",
    )
    crop: Literal["bucket", "center", "random", "pad", "smart", "subject"] = setting(
        "bucket",
        "bucket: crop the centre to the nearest aspect ratio; smart: the same where most is to see; subject: crop around what "
        "stands out; center, random: crop to a square; pad: pad to a square, crop nothing.",
        flag="--crop",
    )
    bucket_step: int = setting(
        64, "Sides of a bucket are multiples of this number of pixels.", flag="--bucket-step", ge=8
    )
    max_aspect: float = setting(
        2.0, "Largest aspect ratio of a bucket, longer side to shorter side.", flag="--max-aspect", ge=1.0, le=8.0
    )
    resample: Literal["lanczos", "bicubic", "box", "nearest"] = setting(
        "lanczos", "Filter for resizing; nearest keeps the exact colours of plans and pixel art.", flag="--resample"
    )
    upscaler: str = setting(
        "",
        "Super-resolution model for images that are enlarged: a .safetensors file that spandrel reads, which is to be "
        "installed; empty: the filter of --resample.",
        flag="--upscaler",
    )
    background: str = setting(
        "#ffffff", "Colour behind transparent pixels and around padded images.", flag="--background"
    )
    min_size: int = setting(
        64, "Minimum length of an image's shorter side in pixels; smaller images are refused.", flag="--min-size", ge=1
    )
    max_enlargement: float | None = setting(
        None,
        "Images that would be enlarged more than this many times are refused; default: no limit.",
        flag="--max-enlargement",
        ge=1,
    )
    max_megapixels: float = setting(
        120.0,
        "Maximum size of an image in megapixels; larger ones are refused. One at 120 takes up to 1.5 GB of memory.",
        flag="--max-megapixels",
        gt=0,
    )
    class_folders: Literal["auto", "on", "off"] = setting(
        "auto",
        "Folders such as `10_sks dog`, as kohya's scripts have them: images are repeated 10 times an epoch, and those without "
        "a text get the caption `sks dog`; auto: if all images lie in such folders.",
        flag="--class-folders",
    )
    repeats: tuple[str, ...] = setting(
        (),
        "Times that an epoch shows the images of a folder below the source, as FOLDER=N, `.` for all; default: once.",
        flag="--repeats",
    )
    weights: tuple[str, ...] = setting(
        (),
        "Loss weight of the images of a folder below the source, as FOLDER=W, `.` for all; default: 1.",
        flag="--weight",
    )
    batch_size_of: tuple[str, ...] = setting(
        (),
        "Batch size of the images of a folder in training, as FOLDER=N, `.` for all; default: that of the training.",
        flag="--batch-size-of",
    )
    duplicates: Literal["keep", "exact", "near"] = setting(
        "keep",
        "Leave out of the dataset: exact: copies of a file; near: also images that are nearly the same; the largest stays, "
        "and the source is not changed.",
        flag="--duplicates",
    )
    trigger: str = setting(
        "", "Trigger word; added in front of every caption that lacks it; empty: none.", flag="--trigger"
    )
    trigger_first: bool = setting(
        False,
        "Move the trigger word to the front of captions that have it elsewhere; such captions are counted.",
        flag="--trigger-first",
    )
    style: tuple[str, ...] = setting(
        (),
        "A style, NAME=FOLDER:TRIGGER, such as anime=raw/anime:anistyle; the trigger follows the last colon. Each becomes a "
        "dataset OUT/NAME whose captions begin with the trigger.",
        flag="--style",
    )
    captioner: str = setting(
        "template", "Captioner that writes the captions of images without one.", flag="--captioner"
    )
    validation_share: float = setting(
        0.1,
        "Fraction of images held out for validation; near-duplicates stay together. Below 10 images: 0 unless it is set.",
        flag="--validation-share",
        ge=0,
        le=0.5,
    )
    near_duplicate_bits: int = setting(
        6, "Images whose 64-bit perceptual hashes differ in at most N bits are near-duplicates.", ge=0, le=32
    )
    seed: int = setting(0, "Seed of random crops and of the choice of held-out images.", flag="--seed", ge=0)
    strict: bool = setting(
        False,
        "Treat as errors: unused images and files, images without a caption, and files that are not read exactly as written.",
        flag="--strict",
    )
    num_workers: int = setting(0, "Number of worker processes; 0: one per core.", flag="--num-workers", ge=0)

    @model_validator(mode="after")
    def _numbers_can_be_read(self) -> "PrepareConfig":
        read_folder_numbers(self.repeats, whole=True, most=MAX_REPEATS)
        read_folder_numbers(self.weights, whole=False, most=MAX_WEIGHT)
        read_folder_numbers(self.batch_size_of, whole=True, most=MAX_BATCH_SIZE)
        read_folder_sizes(self.size_of)
        for size in self.also_size:
            if not 16 <= size <= 4096:
                raise ValueError(f"also_size {size} is out of range: 16 to 4096 pixels")
        if self.size in self.also_size or len(set(self.also_size)) < len(self.also_size):
            raise ValueError("also_size names a size that is prepared already")
        return self
