"""What an image file is before anything is changed: format, mode, bits, orientation, transparency, frames, colour profile.

In: an image that Pillow has opened. Out: a record that `inspect` reports and that decides nothing.
"""

import io
from dataclasses import dataclass

from PIL import Image, ImageCms

_BITS_TAG = 0x0102
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Facts about a source image.

    Attributes:
        format: As Pillow names it, such as `JPEG`.
        mode: As Pillow names it, such as `RGB`, `CMYK` or `I;16`.
        bits: Bits of one channel of the file: 1, 8, 16 or 32.
        frames: Frames of an animation; 1 for a still image.
        profile: Description of the embedded colour profile; empty without one.
        turned: Whether its EXIF orientation is another one than upright.
        transparent: Whether it has an alpha channel or a transparent colour.
    """

    format: str = ""
    mode: str = "RGB"
    bits: int = 8
    frames: int = 1
    profile: str = ""
    turned: bool = False
    transparent: bool = False


PLAIN = SourceFacts()
"""A still RGB image of 8 bits, of which nothing else is known."""


def facts_of(image: Image.Image) -> SourceFacts:
    """The facts that are known before pixels are decoded."""
    frames = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) and image.format != "MPO" else 1
    return SourceFacts(
        format=image.format or "",
        mode=image.mode,
        bits=_bits(image),
        frames=frames,
        profile=_profile_name(image.info.get("icc_profile")),
    )


def _bits(image: Image.Image) -> int:
    """Bits of one channel, which the mode does not say for colours: Pillow reads 16 bits of red, green and blue as 8."""
    if image.mode.startswith("I;16"):
        return 16
    if image.mode in {"I", "F"}:
        return 32
    if image.mode == "1":
        return 1
    tags = getattr(image, "tag_v2", None)
    said = tags.get(_BITS_TAG) if tags is not None and image.format == "TIFF" else None
    if isinstance(said, tuple) and said and all(isinstance(bits, int) for bits in said):
        return max(said)
    raw_modes = [tile[3] for tile in getattr(image, "tile", [])]
    first = [mode[0] if isinstance(mode, tuple) and mode else mode for mode in raw_modes]
    return 16 if any(isinstance(mode, str) and ";16" in mode for mode in first) else 8


def _profile_name(profile: object) -> str:
    if not isinstance(profile, bytes) or not profile:
        return ""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except Exception:  # a broken profile is noted where it is used
        return "unreadable"
    shown = "".join(letter for letter in " ".join(name.split()) if letter.isprintable())
    return shown[:_LONGEST_NAME] or "unnamed"
