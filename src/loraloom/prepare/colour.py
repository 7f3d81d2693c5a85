"""Pixels of every kind to 8-bit RGB: deep grey values, colour profiles, transparency.

In: a loaded Pillow image of any mode. Out: the same image nearer to 8-bit sRGB. What is done only about right is
said in `notes`.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_BAND_PIXELS = 1 << 20
_PROFILE_SPACE = {"RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK", "L": "GRAY"}


def to_eight_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """A grey image of 16 or 32 bits or of floats as 8 bits; every other one as it is.

    16 bits are scaled by 255/65535 and floats in [0, 1] by 255; other ranges are stretched from least to greatest.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)
    bands = [slice(top, top + _band_rows(image)) for top in range(0, image.height, _band_rows(image))]
    low = min(float(_finite(values[band]).min()) for band in bands)
    high = max(float(_finite(values[band]).max()) for band in bands)
    offset, scale = 0.0, 255 / 65535
    if image.mode == "F" and low >= 0 and high <= 1:
        scale = 255.0
    elif image.mode == "F" or low < 0 or high > 65535:
        notes.append(f"grey values were stretched to 0-255: they go from {low:g} to {high:g}")
        offset, scale = low, 255 / max(high - low, 1e-12)
    eight = np.empty(values.shape, np.uint8)
    for band in bands:
        eight[band] = np.round((_finite(values[band]) - offset) * scale)
    return Image.fromarray(eight)


def _band_rows(image: Image.Image) -> int:
    """Rows that are worked on at once: floats of a whole image of 100 megapixels would take gigabytes."""
    return max(1, _BAND_PIXELS // image.width)


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


def to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """The image through its embedded colour profile to sRGB; as it is when it has none, or has sRGB already."""
    if not profile:
        return image
    if image.mode in {"P", "PA"} or (image.mode == "RGB" and has_transparency(image)):
        image = image.convert("RGBA" if has_transparency(image) else "RGB")
    space = _PROFILE_SPACE.get(image.mode)
    if space is None:
        return image
    try:
        transform = _transform(profile, image.mode, space)
        return image if transform is None else _applied(transform, image)
    except Exception:  # a broken profile is no reason to lose an image, nor a reason to be silent
        notes.append("its colour profile cannot be used: colours are taken as sRGB")
        return image


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str, space: str) -> Any:
    """The way from a profile to sRGB; None when there is nothing to do."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    facts: Any = source.profile
    if facts.xcolor_space.strip() != space:
        raise ValueError(f"a profile for {facts.xcolor_space} in an image of mode {mode}")
    if "srgb" in (facts.profile_description or "").lower():
        return None
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.buildTransform(source, target, mode, "RGBA" if mode == "RGBA" else "RGB")


def _applied(transform: Any, image: Image.Image) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None
    return result


def has_transparency(image: Image.Image) -> bool:
    """Whether pixels may be transparent, by an alpha channel or by a transparent colour."""
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


def on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image | None:
    """The image on a plain colour, RGB; None when no pixel of it can be seen."""
    with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = with_alpha.getchannel("A")
    if alpha.getextrema() == (0, 0):
        return None
    below = Image.new("RGB", image.size, background)
    rows = _band_rows(image)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        below.paste(with_alpha.crop(box).convert("RGB"), box, alpha.crop(box))
    return below
