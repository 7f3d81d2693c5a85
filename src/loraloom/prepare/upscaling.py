"""Enlarge small images by a super-resolution model of the user's, read by the package spandrel (ESRGAN and its many heirs).

In: an RGB image and a .safetensors file. Out: the image, larger by the model's factor. The image is worked on in tiles that
overlap, so that memory does not grow with it. Without a model images are enlarged by the filter of `--resample`.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import check_safetensors
from loraloom.utils.untrusted import library_errors

TILE = 256
"""Side of a tile without its borders, pixels."""
BORDER = 16
"""Pixels around a tile that the model sees and that are cut off again."""
_INSTALL = "uv pip install spandrel" if "UV_RUN_RECURSION_DEPTH" in os.environ else "pip install spandrel"


def upscaler_sha256(path: str) -> str:
    """sha256 of a model's file, which is opened for a check; empty for none.

    Raises:
        UserError: No such file, no safetensors file, no model that enlarges RGB images, or spandrel is not installed.
    """
    if not path:
        return ""
    check_safetensors(Path(path))
    _model(path)
    return sha256_file(Path(path))


def upscaled(image: Image.Image, path: str) -> Image.Image:
    """The image as the model enlarges it.

    Args:
        image: RGB.
        path: The model's file.

    Raises:
        UserError: The file is no model that spandrel knows, or none that enlarges RGB images.
    """
    import torch

    model = _model(path)
    factor, pixels = int(model.scale), np.asarray(image)
    device = next(model.model.parameters()).device
    made = np.zeros((image.height * factor, image.width * factor, 3), np.uint8)
    padded = np.pad(pixels, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
    for top in range(0, image.height, TILE):
        for left in range(0, image.width, TILE):
            bottom, right = min(top + TILE, image.height), min(left + TILE, image.width)
            seen = padded[top : bottom + 2 * BORDER, left : right + 2 * BORDER]
            tile_bchw = torch.from_numpy(seen.transpose(2, 0, 1).copy())[None].float().div_(255).to(device)
            with torch.inference_mode(), library_errors("an image by the upscaler", path):
                large_bchw = model(tile_bchw).clamp(0, 1).mul(255).round().byte().cpu()
            edge = BORDER * factor
            inner = large_bchw[0, :, edge : edge + (bottom - top) * factor, edge : edge + (right - left) * factor]
            made[top * factor : bottom * factor, left * factor : right * factor] = inner.permute(1, 2, 0).numpy()
    return Image.fromarray(made)


@cache
def _model(path: str) -> Any:
    """The opened model; one a process."""
    import torch

    with library_errors("the upscaler", path, fix="use another model; spandrel's page lists those that it reads"):
        model: Any = _spandrel().ModelLoader(device="cuda" if torch.cuda.is_available() else "cpu").load_from_file(path)
    if model.input_channels != 3 or model.output_channels != 3 or model.scale < 2:
        got = f"{model.input_channels} to {model.output_channels} channels, {model.scale} times"
        raise UserError("the upscaler does not enlarge RGB images", got=got, fix="use another model")
    return model.eval()


def _spandrel() -> Any:
    try:
        import spandrel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--upscaler uses one more package ({error})", fix=f"{_INSTALL}, with torchvision") from None
    return spandrel
