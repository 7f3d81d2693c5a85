"""Settings of `prepare`: from a raw folder to a dataset."""

from typing import Literal

from loraloom.config.base import setting
from loraloom.config.extending import Extended


class PrepareConfig(Extended):
    """How images and captions are read, changed and split.

    `PrepareConfig(...)` also takes and has every setting that a format, captioner or domain declares.
    """

    verb = "prepare"
    extension_kinds = ("formats", "captioners", "domains")

    format: str = setting("auto", "folder layout; auto looks at the folder", flag="--format")
    domain: str = setting("freetext", "what the texts are about", flag="--domain")
    size: int = setting(
        512, "side of the square whose area a prepared image has, pixels", flag="--size", ge=16, le=4096
    )
    crop: Literal["bucket", "center", "random", "pad"] = setting(
        "bucket",
        "bucket: nearest aspect ratio, almost nothing cut; center, random: a square; pad: a square, nothing cut",
        flag="--crop",
    )
    bucket_step: int = setting(64, "bucket sides are multiples of this, pixels", flag="--bucket-step", ge=8)
    max_aspect: float = setting(2.0, "longest bucket, width over height", flag="--max-aspect", ge=1.0, le=8.0)
    resample: Literal["lanczos", "bicubic", "box", "nearest"] = setting(
        "lanczos", "filter for resizing; nearest keeps the exact colours of plans and pixel art", flag="--resample"
    )
    background: str = setting(
        "#ffffff", "colour below transparent pixels, and around padded images", flag="--background"
    )
    min_size: int = setting(64, "images with a shorter side than this are refused, pixels", flag="--min-size", ge=1)
    max_megapixels: float = setting(
        120.0,
        "larger images are refused unread, megapixels; a process needs up to 1.5 GB for one at the limit",
        flag="--max-megapixels",
        gt=0,
    )
    trigger: str = setting("", "word put before every caption that lacks it", flag="--trigger")
    captioner: str = setting("template", "who writes where no text was found", flag="--captioner")
    validation_share: float = setting(
        0.1,
        "share held out for validation, near-duplicates kept on one side; none of fewer than 10 images unless it is given",
        flag="--validation-share",
        ge=0,
        le=0.5,
    )
    near_duplicate_bits: int = setting(
        6, "images whose 64-bit perceptual hashes differ in at most so many bits stay together", ge=0, le=32
    )
    seed: int = setting(0, "decides random crops and which images are held out", flag="--seed", ge=0)
    strict: bool = setting(
        False,
        "an image or file that is not used, or read in another way than it is written, or without a caption, is an error",
        flag="--strict",
    )
    num_workers: int = setting(0, "processes; 0 is one a core", flag="--num-workers", ge=0)
