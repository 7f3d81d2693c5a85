"""Train an encoder to give thin structures the same contrast in similar and in different colours, with twin images.

In: flat images as rows of palettes. Out: each image with a twin that lacks its walls between areas of one colour, or its
openings; a loss that requires some distance between their latents. An encoder that is trained only for reconstruction
gives a grey wall between dark green rooms a third of the contrast of a black one between pink rooms, and a denoiser loses
it (decision 0023).

The code has no notion of a wall: an area that is nowhere five pixels wide is thin, and most of these are walls.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recipes.mini.canvas import Crops
from recipes.mini.data import PALETTE_ROWS

CELL_PX = 8
"""Pixels per latent along each side."""
THICK_PX = 5
WIDEST_WALL_PX = 6
MERGED_SHARE = 0.7
"""Share of images that get areas of few colours, because rooms of one type are rarely beside each other."""
LIKE_SHARE, MOST_ALIKE = 0.5, 0.4
"""Share of images whose colours move towards their mean, and the smallest share of their distance that is left."""
WALL_DISTANCE, OPENING_DISTANCE = 3.7, 2.4
"""Required distances of the latents of twins (L2 over channels of unit deviation), as in the colours of `plain`."""
WALL_PX, OPENING_PX = 16, 8
"""Number of differing pixels from which a cell counts."""


@dataclass(frozen=True, slots=True)
class Twins:
    """Flat images with a twin each.

    Attributes:
        crops: The images; scenes come after the flat ones and have no twin.
        pixels_fchw: Twins of the flat images, float32 in [-1, 1].
        differs_fhw: (f, h / 8, w / 8) bool: cells whose latents must differ.
        wanted_f: Smallest required distance of these latents.
    """

    crops: Crops
    pixels_fchw: Tensor
    differs_fhw: Tensor
    wanted_f: Tensor

    def loss(self, latents_fchw: Tensor, twins_fchw: Tensor) -> Tensor:
        """Mean square of the missing distance between the latents of twins, of unit deviation, ()."""
        distance_fhw = (latents_fchw - twins_fchw).square().sum(1).add(1e-6).sqrt()
        lacking_fhw = F.relu(self.wanted_f[:, None, None] - distance_fhw).square() * self.differs_fhw
        return lacking_fhw.sum() / self.differs_fhw.sum().clamp(min=1)


def twins_of(crops: Crops, rng: np.random.Generator) -> Twins:
    """Whole images (the upper left pixel of the flat ones is ground), some in fewer or nearer colours, and their twins."""
    places_fhw = crops.places_fhw
    flat = len(places_fhw)
    each_f11 = torch.arange(flat, device=places_fhw.device)[:, None, None]
    thin_fk = thin_rows(places_fhw)
    walls_f = torch.where(thin_fk, counts_of(places_fhw), -1).argmax(1)
    ground_f = places_fhw[:, 0, 0]
    rooms_fk = crops.used_fk & ~thin_fk & (torch.arange(thin_fk.shape[1], device=ground_f.device) != ground_f[:, None])
    rows_fk = torch.from_numpy(np.stack([_fewer(rooms, rng) for rooms in rooms_fk.cpu().numpy()]))
    places_fhw = rows_fk.to(places_fhw.device)[each_f11, places_fhw]
    no_walls_fhw = without_walls(places_fhw, walls_f, rooms_fk)
    openings_fhw = thin_fk.gather(1, places_fhw.flatten(1)).view_as(places_fhw)
    no_openings_fhw = torch.where(openings_fhw, walls_f[:, None, None], places_fhw)
    walls = torch.from_numpy(rng.random(flat) < 0.5).to(places_fhw.device)
    twins_fhw = torch.where(walls[:, None, None], no_walls_fhw, no_openings_fhw)
    changed_fhw = F.avg_pool2d((twins_fhw != places_fhw).float(), CELL_PX) * CELL_PX**2
    least_f, wanted_f = torch.where(walls, WALL_PX, OPENING_PX), torch.where(walls, WALL_DISTANCE, OPENING_DISTANCE)
    palettes_fk3 = _liker(crops.palettes_fk3, rng)
    pixels_fchw, twins_fchw = (
        palettes_fk3[each_f11, rows].permute(0, 3, 1, 2).contiguous() for rows in (places_fhw, twins_fhw)
    )
    pixels_bchw = torch.cat([pixels_fchw, crops.pixels_bchw[flat:]])
    seen = replace(crops, pixels_bchw=pixels_bchw, palettes_fk3=palettes_fk3, places_fhw=places_fhw)
    return Twins(seen, twins_fchw, changed_fhw >= least_f[:, None, None] - 0.5, wanted_f)


def counts_of(places_fhw: Tensor, weight_fhw: Tensor | None = None) -> Tensor:
    """(f, 16) number of pixels of each row of the palette, or the sum of their weights."""
    places_fp = places_fhw.flatten(1)
    weight_fp = torch.ones_like(places_fp) if weight_fhw is None else weight_fhw.flatten(1).long()
    return places_fp.new_zeros(len(places_fp), PALETTE_ROWS).scatter_add_(1, places_fp, weight_fp)


def thin_rows(places_fhw: Tensor) -> Tensor:
    """(f, 16) bool: rows of the palette that occur and are nowhere five pixels wide."""
    values_f1hw = places_fhw[:, None].float()
    reach = THICK_PX // 2
    high_f1hw = F.max_pool2d(values_f1hw, THICK_PX, 1, reach)
    low_f1hw = -F.max_pool2d(-values_f1hw, THICK_PX, 1, reach)
    return (counts_of(places_fhw) > 0) & (counts_of(places_fhw, high_f1hw == low_f1hw) == 0)


def without_walls(places_fhw: Tensor, walls_f: Tensor, rooms_fk: Tensor) -> Tensor:
    """The images without the walls between two rooms of one colour; the walls take the rooms' colour."""
    filled_fhw = places_fhw.clone()
    for across in (True, False):
        seen_fhw = places_fhw if across else places_fhw.mT
        size = seen_fhw.shape[-1]
        index_fhw = torch.arange(size, device=seen_fhw.device).expand_as(seen_fhw)
        wall_fhw = seen_fhw == walls_f[:, None, None]
        left_fhw = torch.where(wall_fhw, -1, index_fhw).cummax(-1).values
        right_fhw = torch.where(wall_fhw, size, index_fhw).flip(-1).cummin(-1).values.flip(-1)
        inside_fhw = wall_fhw & (left_fhw >= 0) & (right_fhw < size) & (right_fhw - left_fhw <= WIDEST_WALL_PX + 1)
        before_fhw = seen_fhw.gather(-1, left_fhw.clamp(min=0))
        after_fhw = seen_fhw.gather(-1, right_fhw.clamp(max=size - 1))
        room_fhw = rooms_fk.gather(1, before_fhw.flatten(1)).view_as(before_fhw)
        closed_fhw = inside_fhw & (before_fhw == after_fhw) & room_fhw
        view_fhw = filled_fhw if across else filled_fhw.mT
        view_fhw[closed_fhw] = before_fhw[closed_fhw]
    return filled_fhw


def _fewer(rooms_k: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """(k,) new row of each row of a palette: most rooms get one of one to three room colours."""
    rows_k = np.arange(len(rooms_k))
    rooms = np.flatnonzero(rooms_k)
    if len(rooms) and rng.random() < MERGED_SHARE:
        few = rng.choice(rooms, min(len(rooms), int(rng.integers(1, 4))), replace=False)
        rows_k[rooms] = rng.choice(few, len(rooms))
    return rows_k


def _liker(palettes_fk3: Tensor, rng: np.random.Generator) -> Tensor:
    """The palettes, some with smaller distances between their colours."""
    share_f = np.where(rng.random(len(palettes_fk3)) < LIKE_SHARE, rng.uniform(MOST_ALIKE, 1, len(palettes_fk3)), 1)
    share_f11 = torch.from_numpy(share_f).to(palettes_fk3)[:, None, None]
    return palettes_fk3.mean(1, keepdim=True).lerp(palettes_fk3, share_f11)
