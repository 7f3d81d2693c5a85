"""Images for tests: good ones that are drawn, and files that nobody should have sent.

In: a place and a seed. Out: files. Nothing here is read from outside but `shared_data`, real files beside the checkout.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def shared_data(name: str) -> Path:
    """A folder of real files beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real data are absent: shared/data/{name} beside the checkout")
    return folder


def drawn(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """An image with blots and boxes; another seed is another image."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    image = blots.resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(4):
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        left, top = int(rng.integers(0, width // 2 + 1)), int(rng.integers(0, height // 2 + 1))
        image.paste(colour, (left, top, left + width // 5, top + height // 4))
    return image


def save(image: Image.Image, path: Path, caption: str | None = None) -> Path:
    """Save an image, and its caption in a text of the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def folder_of(folder: Path, number: int, first: int = 0) -> Path:
    """`number` drawn images with captions, in the sidecar layout."""
    for seed in range(first, first + number):
        save(drawn(seed), folder / f"{seed:03d}.png", f"image {seed}")
    return folder


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_png(side: int = 60_000) -> bytes:
    """A PNG of some bytes that says it has `side` squared pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )
