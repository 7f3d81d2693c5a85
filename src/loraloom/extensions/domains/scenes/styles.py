"""Painting styles: each changes the look of a flat image and keeps every object in place.

In: an RGB image, the name of a style, a seed for paper, strokes and distortion. Out: an RGB image of the same size.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom.extensions.domains.scenes.filters import Pixels, blur, streaked, widened, without_specks
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.rng import derive_seed

INK = np.array((0.09, 0.07, 0.13), np.float32)
PAPER = np.array((0.985, 0.975, 0.945), np.float32)


def _noise(shape: tuple[int, int], cell: float, pick: np.random.Generator) -> Pixels:
    """Smooth noise, standard deviation 1, with blobs about `cell` pixels wide."""
    height, width = max(3, math.ceil(shape[0] / cell) + 1), max(3, math.ceil(shape[1] / cell) + 1)
    coarse = pick.standard_normal((height, width)).astype(np.float32)
    fine = np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def _edges(pixels: Pixels, sigma: float = 0.8) -> Pixels:
    """Strength of the colour change at each pixel, about 1 at the edge between two flat colours."""
    soft = blur(pixels, sigma)
    down, right = np.gradient(soft, axis=(0, 1))
    return np.clip(np.sqrt(down**2 + right**2).max(axis=2) * 5.5, 0, 1)


def _saturated(pixels: Pixels, amount: float) -> Pixels:
    grey = pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    return np.clip(grey[..., None] + (pixels - grey[..., None]) * amount, 0, 1)


def _blend(below: Pixels, colour: Pixels, share: Pixels) -> Pixels:
    return below + (colour - below) * share[..., None]


def _wobbled(pixels: Pixels, pick: np.random.Generator, by: float, cell: float) -> Pixels:
    """The image with a smooth random distortion of at most about 2 x `by` pixels."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows = np.clip(np.rint(rows + by * _noise((height, width), cell, pick)), 0, height - 1).astype(np.int32)
    columns = np.clip(np.rint(columns + by * _noise((height, width), cell, pick)), 0, width - 1).astype(np.int32)
    return pixels[rows, columns]


def _objects(pixels: Pixels) -> NDArray[np.bool_]:
    """Mask of objects: pixels that differ from the colours at both ends of their row and of the rows nearby.

    No object reaches the ends of a row in our images, so these have the colours of sky and ground.
    """
    half = pixels[::2, ::2]
    nearest = np.full(half.shape[:2], np.inf, np.float32)
    for side in (np.median(pixels[::2, :3], axis=1), np.median(pixels[::2, -3:], axis=1)):
        for offset in (-12, -8, -4, 0, 4, 8, 12):
            rows = np.clip(np.arange(len(half)) + offset, 0, len(half) - 1)
            nearest = np.minimum(nearest, np.abs(half - side[rows, None]).max(axis=2))
    return (nearest > 0.1).repeat(2, axis=0).repeat(2, axis=1)[: pixels.shape[0], : pixels.shape[1]]


def _watercolour(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """Watercolour on grainy paper: soft edges, darker along edges, uneven within areas."""
    shape = pixels.shape[0], pixels.shape[1]
    drawn = _wobbled(pixels, pick, 1.3, 18)
    wash = 0.5 * blur(drawn, 1.1) + 0.3 * blur(drawn, 3.5) + 0.2 * drawn
    rim = np.clip(blur(_edges(drawn, 1.2), 0.7) * 1.2, 0, 1)
    pools = 0.86 + 0.09 * _noise(shape, 44, pick) + 0.045 * _noise(shape, 11, pick)
    grain = blur(pick.standard_normal(shape).astype(np.float32), 0.7)
    density = np.clip(pools + 0.5 * rim + 0.14 * grain, 0.22, 1.5)
    # Layers of pigment multiply.
    painted = np.power(np.clip(_saturated(wash, 1.12), 0.03, 1), density[..., None])
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    border = np.minimum(np.minimum(rows, shape[0] - 1 - rows), np.minimum(columns, shape[1] - 1 - columns))
    bare = np.clip(1 - (border + 2.2 * _noise(shape, 9, pick) - 4) / 3, 0, 1)
    return _blend(painted * PAPER, PAPER + 0.015 * grain[..., None], bare)


def _cartoon(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """Few strong colours within thick outlines."""
    loud = _saturated(pixels, 1.45)
    flat = np.rint(loud * 5) / 5
    # Snowflakes and stars are too small for a thick line around them.
    large = without_specks(pixels)
    lines = widened(_edges(large, 0.6) * 0.8, 2)
    return _blend(0.9 * flat + 0.1 * loud, INK, np.clip((blur(lines, 0.5) - 0.36) * 4, 0, 1))


def _anime(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """Light colours: two tones on every thing, thin lines, a glowing sky."""
    height, width = pixels.shape[:2]
    things = _objects(pixels)
    bright = np.clip(_saturated(pixels, 1.25) ** 0.8 * 1.03, 0, 1)
    step = max(3, height // 36)
    other = np.roll(pixels, (-step, -step), axis=(0, 1))
    turned_away = things & (np.abs(pixels - other).max(axis=2) > 0.22)
    facing = things & (np.abs(pixels - np.roll(pixels, (step, step), axis=(0, 1))).max(axis=2) > 0.22) & ~turned_away
    shadow = blur(turned_away.astype(np.float32), 0.5)
    toned = bright * (1 - shadow[..., None] * np.array((0.34, 0.4, 0.16), np.float32))
    toned = _blend(toned, np.array((1, 1, 0.97), np.float32), 0.3 * blur(facing.astype(np.float32), 0.6))
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    behind = blur((~things).astype(np.float32), 0.8)
    air = np.stack(
        [0.62 + 0.38 * down + 0 * across, 0.84 + 0.06 * down + 0 * across, 1 - 0.1 * down + 0 * across], axis=2
    )
    toned = _blend(toned, air.astype(np.float32), 0.5 * behind * (1 - 0.8 * down))
    lines = np.clip((_edges(pixels, 0.55) - 0.3) * 1.9, 0, 1)
    lined = _blend(toned, np.array((0.32, 0.16, 0.3), np.float32), 0.75 * lines)
    glow = blur(np.clip(lined, 0, 1), 9)
    beam = np.exp(-(((across + 0.55 * down - 0.45) / 0.16) ** 2)) * (1 - down) * 0.22
    lit = 1 - (1 - lined) * (1 - 0.16 * glow**2)
    return _blend(lit, np.ones(3, np.float32), beam.astype(np.float32))


def _strokes(shape: tuple[int, int], pick: np.random.Generator, rising: bool) -> Pixels:
    """Parallel slanted pencil strokes, 0 .. 1, about half dark and half light."""
    side = shape[0] + shape[1]
    noise = blur(pick.standard_normal((shape[0], side)).astype(np.float32), 0.55)
    streaks = streaked(noise, 19)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    slanted = streaks[rows, columns + rows if rising else columns - rows + shape[0]]
    return np.clip(0.5 + 0.36 * slanted / (slanted.std() + 1e-6), 0, 1)


def _sketch(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """Pencil on paper: grey double contours, and hatching with weak colours."""
    shape = pixels.shape[0], pixels.shape[1]
    dark = 1 - pixels @ np.array((0.299, 0.587, 0.114), np.float32)
    things = 0.45 + 0.55 * blur(_objects(pixels).astype(np.float32), 1.0)
    hatch = _strokes(shape, pick, rising=True) * 0.95
    cross = _strokes(shape, pick, rising=False) * np.clip(dark * 2 - 0.8, 0, 1)
    colour = 1 - pixels.min(axis=2)
    cover = np.clip((hatch * (0.3 + 0.75 * colour) + cross * 0.7) * things, 0, 1)
    crayon = 0.72 * pixels + 0.28 * (1 - dark)[..., None] * np.ones(3, np.float32)
    shaded = _blend(PAPER * np.ones_like(pixels), crayon, cover)
    graphite = np.array((0.22, 0.22, 0.25), np.float32)
    grain = np.clip(0.8 + 0.3 * _noise(shape, 1.6, pick), 0, 1)
    for share in (0.9, 0.55):
        lines = np.clip((_edges(_wobbled(pixels, pick, 0.8, 26), 0.6) - 0.16) * 2.2, 0, 1)
        shaded = _blend(shaded, graphite, share * lines * grain)
    return shaded


def _night(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """The same place by moonlight: blue and dark, things lit from above, yellow and white parts glow."""
    height, width = pixels.shape[:2]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    things = blur(_objects(pixels).astype(np.float32), 1.0)
    moonlit = pixels * np.array((0.28, 0.34, 0.56), np.float32) + np.array((0.0, 0.01, 0.06), np.float32)
    kept = _saturated(pixels, 1.15) * np.array((0.72, 0.72, 0.84), np.float32)
    dusk = _blend(moonlit, kept, 0.72 * things)
    warm = np.clip((pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2] - 0.34, 0, 1) * 2.2 * things
    halo = blur(warm, 9)
    dusk = dusk + halo[..., None] * np.array((0.62, 0.5, 0.16), np.float32)
    dusk = dusk + (np.clip(warm, 0, 1) * 0.35)[..., None] * pixels
    vignette = 1 - 0.45 * np.clip((across**2 + (2 * down - 1) ** 2) / 2, 0, 1)
    return dusk * vignette[..., None]


def _pixel(pixels: Pixels, pick: np.random.Generator) -> Pixels:
    """An image of few large square dots in few colours."""
    height, width = pixels.shape[:2]
    image = Image.fromarray((_saturated(pixels, 1.2) * 255).astype(np.uint8))
    coarse = image.resize((max(1, width // 4), max(1, height // 4)), Image.Resampling.BOX)
    few = Image.fromarray((np.rint(np.asarray(coarse, np.float32) / 255 * 8) * 31.875).astype(np.uint8))
    return np.asarray(few.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


PAINTERS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "watercolour": _watercolour,
    "cartoon": _cartoon,
    "anime": _anime,
    "sketch": _sketch,
    "night": _night,
    "pixel": _pixel,
}


def stylise(image: Image.Image, style: str, seed: int) -> Image.Image:
    """The image in a style; `flat` returns it unchanged.

    Args:
        image: RGB image of at least 16 pixels along each side.
        style: `flat` or a name in `PAINTERS`.
        seed: Seed of the paper and the strokes.

    Raises:
        UserError: The style is unknown; the nearest names are listed.
    """
    if style == "flat":
        return image
    if style not in PAINTERS:
        raise UserError("unknown style of scenes", got=style, fix=did_you_mean(style, ["flat", *PAINTERS]))
    pick = np.random.default_rng(derive_seed("scenes", "style", style, seed))
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    painted = np.clip(PAINTERS[style](pixels, pick), 0, 1)
    return Image.fromarray((painted * 255 + 0.5).astype(np.uint8))
