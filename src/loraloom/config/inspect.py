"""Settings of `inspect`, which examines a raw folder and writes no dataset."""

from typing import Literal

from loraloom.config.base import setting
from loraloom.config.prepare import PrepareConfig

Purpose = Literal["style", "subject", "concept", "layout"]


class InspectConfig(PrepareConfig):
    """What is examined for which purpose, and the thresholds of the verdicts.

    An instance also has every setting of `prepare`: images are looked at as they would be prepared.
    """

    verb = "inspect"
    extension_kinds = ("formats", "captioners", "domains")

    purpose: Purpose = setting(
        "style",
        "What the images are for: a style, one subject, a concept of many looks, or layouts that captions describe.",
        flag="--purpose",
    )
    few_images: int | None = setting(
        None, "A concept with fewer images than this is said to have few; default: by purpose.", flag="--few", ge=1
    )
    max_enlargement: float | None = setting(
        None,
        "Images that would be enlarged more than this many times are too small; default: by purpose.",
        flag="--max-enlargement",
        ge=1,
    )
    max_cut: float = setting(
        0.3, "Share of an image, 0 to 1, that the crop may cut off without a warning.", flag="--max-cut", ge=0, le=1
    )
    max_blur: float = setting(
        0.6,
        "Blur effect (Crete et al. 2007), 0 sharp to 1 blurred, above which an image is said to be blurred.",
        flag="--max-blur",
        ge=0,
        le=1,
    )
    min_brightness: float = setting(
        0.08, "Mean brightness, 0 to 1, below which an image is said to be dark.", flag="--min-brightness", ge=0, le=1
    )
    max_clipped: float = setting(
        0.5,
        "Share of pixels that are pure black or white, 0 to 1, above which a photograph is said to be clipped.",
        flag="--max-clipped",
        ge=0,
        le=1,
    )
    min_contrast: float = setting(
        0.15,
        "Range of brightness, 0 to 1, that 98 % of the pixels span; below it an image is said to be flat.",
        flag="--min-contrast",
        ge=0,
        le=1,
    )
    common_share: float = setting(
        0.9,
        "Share of a concept's captions, above 0, at most 1, in which a phrase is reported as one that all have.",
        flag="--common-share",
        gt=0,
        le=1,
    )
    batch_size: int = setting(4, "Batch size of the training that is planned.", flag="--batch-size", ge=1)
    epochs: float = setting(
        10.0, "Epochs of the training that is planned; each shows every image once.", flag="--epochs", gt=0
    )
    step_seconds: float | None = setting(
        None,
        "Seconds of one update, as `loraloom train --dry-run` measures them; default: the time is left open.",
        flag="--step-seconds",
        gt=0,
    )
