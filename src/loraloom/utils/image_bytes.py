"""Refuse bytes that are not a decodable image, with the reason, before a decoder reads them.

In: the bytes of a file that somebody else made. Out: the formats that it may be decoded as, or `RefusedError` with a short
reason: what the file really is, a decoder that is not installed, or work without end (a JPEG of many scans).
"""

import os
import re
from functools import cache

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from loraloom.utils.listing import sniff_image

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        AvifImagePlugin.AvifImageFile,
    )
    if plugin.format in Image.OPEN  # a build of Pillow may lack some
)
"""What is decoded (MPO, a JPEG with more behind it, comes with JPEG). Pillow knows more, some by calling programs."""

MAX_JPEG_SCANS = 40
"""Programs write 10 to 20. Each scan is a pass over all pixels, and one that changes nothing takes a few bytes."""

_INSTALL = "uv pip install pillow-heif" if "UV_RUN_RECURSION_DEPTH" in os.environ else "pip install pillow-heif"
# After 0xFF: not a stuffed byte, not a restart marker, not a fill byte.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD8, 0xD9, 0x01
_SUBFILE_TYPE_TAG, _DNG_VERSION_TAG = 0x00FE, 0xC612


class RefusedError(Exception):
    """An image that cannot be used; the message is the reason, short, for the user."""


def decodable_formats(data: bytes) -> tuple[str, ...]:
    """The formats that Pillow may try for these bytes.

    Raises:
        RefusedError: Empty, a HEIC file without a decoder for it, or a JPEG of more than `MAX_JPEG_SCANS` scans.
    """
    if not data:
        raise RefusedError("the file is empty")
    kind = sniff_image(data[:64])
    if kind == "HEIF":
        if not _heif_decoder():
            raise RefusedError(f"HEIC needs one more package: {_INSTALL}")
        return ("HEIF",)
    if kind == "JPEG" and jpeg_scans(data, MAX_JPEG_SCANS) > MAX_JPEG_SCANS:
        raise RefusedError(f"a JPEG of more than {MAX_JPEG_SCANS} scans takes too long to decode: save it again")
    return FORMATS


def jpeg_scans(data: bytes, most: int) -> int:
    """Scans of the first image in a JPEG file; counting ends at `most` + 1."""
    scans, position = 0, 2
    while scans <= most and (found := _MARKER.search(data, position)) is not None:
        marker, position = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in (_START_OF_IMAGE, _TEMPORARY):  # the two without a length
            continue
        scans += marker == _START_OF_SCAN
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans


def check_preview(image: Image.Image) -> None:
    """Refuse a TIFF file whose first image is a small preview: raw files of cameras, whatever their suffix.

    Raises:
        RefusedError: It is one.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    subfile = tags.get(_SUBFILE_TYPE_TAG, 0)
    if _DNG_VERSION_TAG in tags or (isinstance(subfile, int) and subfile & 1):
        raise RefusedError("a camera's raw file: what can be read of it is a small preview; export it as JPEG or PNG")


def what_it_is(data: bytes) -> str:
    """Why a file is not decoded, from its first bytes."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = head.lower()
    if lower.startswith(b"<svg") or (lower.startswith(b"<?xml") and b"<svg" in lower):
        return "SVG is a drawing, not pixels: export it as PNG"
    if lower.startswith((b"<!doctype html", b"<html")):
        return "a web page under an image's name: download the image itself"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the image: run `git lfs pull`"
    if data[8:10] == b"CR" or data[:8] == b"FUJIFILM":
        return "a camera's raw file: export it as JPEG or PNG"
    if head.startswith((b"8BPS", b"gimp xcf")):
        return "a layered file of Photoshop or GIMP: export it as PNG"
    if data[:12] in {b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cjP  \r\n\x87\n"} or data[:2] == b"\xff\x0a":
        return "JPEG XL and JPEG 2000 are not decoded: save it as PNG or JPEG"
    return "not an image, or of a kind that is not decoded: save it as PNG or JPEG"


@cache
def _heif_decoder() -> bool:
    """Whether HEIC can be decoded; registers the decoder with Pillow."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]  (the extra `heic`)
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return "HEIF" in Image.OPEN
