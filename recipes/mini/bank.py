"""The training data of the denoiser on its device: latents and prompt embeddings.

In: synthetic images, an autoencoder, a trained text encoder. Out: batches, made on the device from a step's seed. The
files of `prepare` and the caches of `train` are for hundreds of images that a user keeps: hashed, synced and read one by
one. A denoiser of this size learns from thousands of images a second on a GPU.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loraloom import plugins
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.parallel import spread
from loraloom.utils.processes import usable_cores
from loraloom.utils.progress import Progress
from recipes.mini.canvas import signed
from recipes.mini.data import ORIENTATIONS, PART, Part, grids_of, read_part

HELD_OUT = 100
"""One of this number of images is held out for measurement."""
ROOM_FOR_WINDOWS = 8
"""Text lengths are padded to a multiple of this number of tokens, which kernels of attention with a mask require."""


@dataclass(frozen=True, slots=True)
class States:
    """Conditioning of the denoiser: (b, l, d) prompt embeddings, and a (b, l) bool mask, False for padding windows."""

    hidden_bld: Tensor
    mask_bl: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Bank:
    """Latents and prompt embeddings in memory.

    Attributes:
        latents_nchw: float16 latents of unit deviation.
        states_mkd: float16 prompt embeddings of all windows of all texts; that of the empty text and a row of zeros are last.
        windows_nw: int64 rows in `states_mkd` of each image's windows, padded with the row of zeros; the last image is
            the empty text.
        counts_n: int64 number of real windows of each image.
        grids_ngg3: uint8 coarse colours, on the CPU.
        origins_n: int64, on the CPU: the number of the original image of each image, which may be mirrored or turned.
        worlds: World of each image, such as `plans`.
    """

    latents_nchw: Tensor
    states_mkd: Tensor
    windows_nw: Tensor
    counts_n: Tensor
    grids_ngg3: NDArray[np.uint8]
    origins_n: NDArray[np.int64]
    worlds: Sequence[str]

    def __len__(self) -> int:
        return len(self.latents_nchw)

    @property
    def learned(self) -> NDArray[np.int64]:
        """Numbers of the training images."""
        numbers = np.arange(len(self))
        return np.setdiff1d(numbers, self.held_out)

    @property
    def held_out(self) -> NDArray[np.int64]:
        """Numbers of the held-out images; all orientations of an image are on the same side."""
        period = min(HELD_OUT, int(self.origins_n.max()) + 1)
        return np.flatnonzero(self.origins_n % period == period - 1)

    def by_world(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The numbers grouped by world, plans first."""
        kinds = np.array(self.worlds)[numbers]
        return [numbers[kinds == world] for world in ("plans", "scenes") if (kinds == world).any()]

    def states(self, numbers_b: Tensor) -> States:
        """Conditioning of the denoiser; `len(self)` is the empty text. All batches have the same length."""
        hidden_bwkd = self.states_mkd[self.windows_nw[numbers_b]]
        hidden_bld = hidden_bwkd.flatten(1, 2)
        window = hidden_bwkd.shape[2]
        length = -(-hidden_bld.shape[1] // ROOM_FOR_WINDOWS) * ROOM_FOR_WINDOWS
        hidden_bld = torch.nn.functional.pad(hidden_bld, (0, 0, 0, length - hidden_bld.shape[1]))
        places_l = torch.arange(length, device=hidden_bld.device)
        return States(hidden_bld, places_l < (self.counts_n[numbers_b] * window)[:, None])


def windows_of(model: Path, texts: Sequence[str]) -> list[list[tuple[list[int], str]]]:
    """Token ids and text of each window of each text, as the prompt method `attention` cuts them."""
    text = open_model(ModelSource(location=str(model))).text
    encoder = PromptEncoder(
        text=text, domain=plugins.load("domains", "floorplan"), method="attention", max_windows=1 << 10
    )
    return [[(list(text.tokenizer.window(part.ids)), part.text) for part in encoder.plan(one).windows] for one in texts]


@dataclass(frozen=True, slots=True)
class _Oriented:
    """A part in one orientation: indices of the images with a text for it, and the windows of these texts."""

    orientation: int
    places: NDArray[np.int64]
    windows: list[list[list[int]]]


def _read(model: Path, orientations: int, file: Path) -> tuple[Part, list[_Oriented]]:
    part = read_part(file)
    views: list[_Oriented] = []
    for orientation in _chosen(part, orientations, file):
        texts = [each[orientation] for each in part.turned] if orientation else part.texts
        texts_of = {place: text for place, text in enumerate(texts) if text is not None}
        windows = [[ids for ids, _ in windows] for windows in windows_of(model, list(texts_of.values()))]
        views.append(_Oriented(orientation, np.array(list(texts_of), np.int64), windows))
    return part, views


def _chosen(part: Part, orientations: int, file: Path) -> list[int]:
    """The identity and `orientations` - 1 other orientations, which change from file to file."""
    if orientations > 1 and not part.turned:
        raise UserError(
            "written by an earlier loraloom, without texts of turned images", got=str(file), fix="delete it"
        )
    others = [orientation for orientation in range(1, ORIENTATIONS) if any(each[orientation] for each in part.turned)]
    start = int(file.stem.split("_")[1]) // PART * (orientations - 1)
    return [0, *(others[(start + place) % len(others)] for place in range(min(orientations - 1, len(others))))]


def oriented(pixels_bchw: Tensor, orientation: int) -> Tensor:
    """Square images in an orientation, 0 .. `ORIENTATIONS` - 1."""
    quarter = ORIENTATIONS // 2
    return torch.rot90(pixels_bchw.flip(3) if orientation >= quarter else pixels_bchw, -(orientation % quarter), (2, 3))


@torch.no_grad()
def fill_bank(
    files: Sequence[Path],
    model: Path,
    encode: Callable[[Tensor], Tensor],
    read: Callable[[Tensor], Tensor],
    device: str,
    progress: Progress | None = None,
    *,
    known: Tensor | None = None,
    orientations: int = 1,
    batch_size: int = 32,
) -> Bank:
    """Encode the images and texts of some files.

    Args:
        files: Files of `write_parts`.
        model: Model folder with the tokenizer.
        encode: Function of (b, 3, 256, 256) pixels on the device that returns (b, 4, 32, 32) latents.
        read: Function of (m, 77) token ids on the device that returns (m, 77, d) prompt embeddings.
        device: Device of the bank.
        progress: Called with (files done, all files); None reports nothing.
        known: Latents of these files from an earlier call; None encodes the images.
        orientations: Number of orientations of each image, 1 .. `ORIENTATIONS`.
        batch_size: Number of images encoded together.

    Raises:
        UserError: A file has no texts for other orientations.
    """
    latents: list[Tensor] = []
    grids: list[NDArray[np.uint8]] = []
    texts: list[list[list[int]]] = []
    worlds: list[str] = []
    origins: list[NDArray[np.int64]] = []
    drawn = 0
    with closing(spread(partial(_read, model, orientations), files, usable_cores())) as parts:
        for done, (part, views) in enumerate(parts, 1):
            coarse = torch.from_numpy(_grids(part)).permute(0, 3, 1, 2)
            for each in views:
                for first in range(0, len(each.places) if known is None else 0, batch_size):
                    pixels_bchw = _pixels(part, each.places[first : first + batch_size], device)
                    latents.append(encode(oriented(pixels_bchw, each.orientation)).half())
                grids.append(oriented(coarse[each.places], each.orientation).permute(0, 2, 3, 1).numpy())
                texts += each.windows
                worlds += [files[done - 1].name.split("_")[0]] * len(each.places)
                origins.append(drawn + each.places)
            drawn += len(part.texts)
            if progress:
                progress(done, len(files))
    texts.append([window for window, _ in windows_of(model, [""])[0]])
    ids_mk = torch.tensor([ids for text in texts for ids in text])
    states_mkd = _states(ids_mk, read, device)
    counts_n = torch.tensor([len(text) for text in texts])
    places_nw = torch.arange(int(counts_n.max())) + (counts_n.cumsum(0) - counts_n)[:, None]
    windows_nw = torch.where(torch.arange(int(counts_n.max())) < counts_n[:, None], places_nw, len(ids_mk))
    return Bank(
        torch.cat(latents) if known is None else known.to(device),
        states_mkd, windows_nw.to(device), counts_n.to(device),
        np.concatenate(grids), np.concatenate(origins), worlds,
    )  # fmt: skip


def _states(ids_mk: Tensor, read: Callable[[Tensor], Tensor], device: str) -> Tensor:
    """(m + 1, 77, d) float16, a row of zeros last. Written in place, because concatenation would double the memory."""
    states_mkd: Tensor | None = None
    for first in range(0, len(ids_mk), 512):
        some = read(ids_mk[first : first + 512].to(device))
        if states_mkd is None:
            states_mkd = torch.zeros(len(ids_mk) + 1, *some.shape[1:], dtype=torch.float16, device=device)
        states_mkd[first : first + len(some)] = some
    assert states_mkd is not None
    return states_mkd


def _pixels(part: Part, some: NDArray[np.int64], device: str) -> Tensor:
    """(b, 3, 256, 256) float32 in [-1, 1] on the device."""
    if part.marks is None or part.palettes is None:
        assert part.pixels is not None
        bytes_bhwc = torch.from_numpy(part.pixels[some]).to(device)
    else:
        marks_bhw = torch.from_numpy(part.marks[some]).to(device).long()
        palettes_bk3 = torch.from_numpy(part.palettes[some]).to(device)
        bytes_bhwc = palettes_bk3[torch.arange(len(marks_bhw), device=device)[:, None, None], marks_bhw]
    return signed(bytes_bhwc.permute(0, 3, 1, 2))


def _grids(part: Part) -> NDArray[np.uint8]:
    """`grids_of` the part's images, without rendering whole images."""
    if part.marks is None or part.palettes is None:
        return grids_of(part.images())
    return np.stack([palette[marks] for palette, marks in zip(part.palettes, grids_of(part.marks), strict=True)])
