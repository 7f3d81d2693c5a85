"""Training images on the training device: batches are cropped there, because a loop over images left a GPU idle.

In: parts of synthetic images. Out: crops, turned and mirrored; plans have other colours each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loraloom.utils.rng import derive_seed
from recipes.mini.data import PALETTE_ROWS, SIZE_PX, Part, made_up_palette

FLAT_SHARE = 0.8
"""Share of plans in a batch; the rest are scenes."""
OWN_COLOURS = 0.4
NUM_PALETTES = 512


@dataclass(frozen=True, slots=True)
class Crops:
    """A batch of crops.

    Attributes:
        pixels_bchw: float32 pixels in [-1, 1]; the first `len(palettes)` are flat.
        palettes_fk3: (f, 16, 3) float32 colours of the flat ones, in [-1, 1].
        used_fk: (f, 16) bool: colours that occur in the image.
        places_fhw: (f, h, w) int64: row of the palette for each pixel.
    """

    pixels_bchw: Tensor
    palettes_fk3: Tensor
    used_fk: Tensor
    places_fhw: Tensor


class Canvas:
    """Images of both kinds in the memory of a device.

    Args:
        parts: Parts; at least one of them is flat.
        device: Device of the batches.
        own_colours: Share of the plans that keep their own colours, 0 .. 1; the others get random ones.
    """

    def __init__(self, parts: Sequence[Part], device: str, own_colours: float = OWN_COLOURS) -> None:
        self._own_colours = own_colours
        flat = [(part.marks, part.palettes) for part in parts if part.marks is not None and part.palettes is not None]
        full = [part.pixels for part in parts if part.pixels is not None]
        rng = np.random.default_rng(derive_seed("mini", "palettes"))
        self._made_up_pk3 = torch.from_numpy(np.stack([made_up_palette(rng) for _ in range(NUM_PALETTES)])).to(device)
        self._marks_nhw = torch.from_numpy(np.concatenate([marks for marks, _ in flat])).to(device)
        self._palettes_nk3 = torch.from_numpy(np.concatenate([palettes for _, palettes in flat])).to(device)
        self._used_n = self._marks_nhw.flatten(1).amax(1).long()
        self._full_nhwc = torch.from_numpy(np.concatenate(full)).to(device) if full else None

    def crops(self, count: int, size_px: int, *seed: str | int) -> Crops:
        """`count` crops of size_px x size_px, determined by the seed."""
        rng = np.random.default_rng(derive_seed("canvas", *seed))
        device = self._marks_nhw.device
        flat = count if self._full_nhwc is None else max(1, round(FLAT_SHARE * count))
        chosen = self._send(rng.integers(len(self._marks_nhw), size=flat))
        palettes_fk3 = self._palettes_nk3[chosen]
        other_fk3 = self._made_up_pk3[self._send(rng.integers(NUM_PALETTES, size=flat))]
        own_f = self._send(rng.random(flat) < self._own_colours)
        palettes_fk3 = torch.where(own_f[:, None, None], palettes_fk3, other_fk3)
        rows_bhw, columns_bhw = self._places(count, size_px, rng)
        places_fhw = self._marks_nhw[chosen[:, None, None], rows_bhw[:flat], columns_bhw[:flat]].long()
        pixels_bhwc = palettes_fk3[torch.arange(flat, device=device)[:, None, None], places_fhw]
        if self._full_nhwc is not None and count > flat:
            some = self._send(rng.integers(len(self._full_nhwc), size=count - flat))
            full_bhwc = self._full_nhwc[some[:, None, None], rows_bhw[flat:], columns_bhw[flat:]]
            pixels_bhwc = torch.cat([pixels_bhwc, full_bhwc])
        used_fk = torch.arange(PALETTE_ROWS, device=device) <= self._used_n[chosen][:, None]
        return Crops(signed(pixels_bhwc.permute(0, 3, 1, 2)), signed(palettes_fk3), used_fk, places_fhw)

    def _places(self, count: int, size_px: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(b, h, w) rows and columns of each crop: at a random place, mirrored and turned at random."""
        across_1hw = torch.arange(size_px, device=self._marks_nhw.device).expand(1, size_px, size_px)
        down_1hw = across_1hw.mT
        top, left = (self._send(rng.integers(SIZE_PX - size_px + 1, size=(count, 1, 1))) for _ in range(2))
        swapped, upside, mirrored = (self._send(rng.random((count, 1, 1)) < 0.5) for _ in range(3))
        rows_bhw = torch.where(swapped, across_1hw, down_1hw)
        columns_bhw = torch.where(swapped, down_1hw, across_1hw)
        rows_bhw = torch.where(upside, size_px - 1 - rows_bhw, rows_bhw)
        columns_bhw = torch.where(mirrored, size_px - 1 - columns_bhw, columns_bhw)
        return top + rows_bhw, left + columns_bhw

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._marks_nhw.device)


def signed(bytes_: Tensor) -> Tensor:
    """Values 0 .. 255 of any shape to float32 in [-1, 1]."""
    return bytes_.float().div(127.5).sub(1)
