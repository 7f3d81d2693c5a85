"""Everything that the denoiser learns from, on the device where it learns: latents, and states of the texts.

In: drawn images, an autoencoder, a text encoder that reads. Out: batches, made on the device from a step's seed. The files of
`prepare` and the caches of `train` are made for hundreds of images that somebody wants to keep: hashed, synced and read
one by one. A denoiser of this size learns thousands a second on a GPU.
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
from loraloom.utils.parallel import spread, usable_cores
from loraloom.utils.progress import Progress
from recipes.mini.canvas import signed
from recipes.mini.data import ORIENTATIONS, PART, Part, grids_of, read_part

HELD_OUT = 100
"""One of so many images is not learned, but measured."""
ROOM_FOR_WINDOWS = 8
"""Text lengths are padded to a multiple of this many tokens: kernels of attention with a mask want it."""


@dataclass(frozen=True, slots=True)
class States:
    """What the denoiser reads: (b, l, d) prompt embeddings, and (b, l) bool, False where a window only pads."""

    hidden_bld: Tensor
    mask_bl: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Bank:
    """Latents and states, resident.

    Attributes:
        latents_nchw: float16, of unit deviation.
        states_mkd: float16 states of all windows of all texts, the empty text's last, and then a row of zeros.
        windows_nw: int64: for each image its windows' rows in `states_mkd`, filled up with the row of zeros; the last
            image is the empty text.
        counts_n: int64: how many windows are real.
        grids_ngg3: uint8 coarse colours, on the CPU.
        origins_n: int64, on the CPU: the number of the drawn image that each is, mirrored or turned perhaps.
        worlds: For each image a word for its kind.
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
        """Numbers of the images that are learned from."""
        numbers = np.arange(len(self))
        return np.setdiff1d(numbers, self.held_out)

    @property
    def held_out(self) -> NDArray[np.int64]:
        """Numbers of the others; no laying of an image is learned when another is measured."""
        period = min(HELD_OUT, int(self.origins_n.max()) + 1)
        return np.flatnonzero(self.origins_n % period == period - 1)

    def by_world(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Some numbers, those of each world that there is together, plans first."""
        kinds = np.array(self.worlds)[numbers]
        return [numbers[kinds == world] for world in ("plans", "scenes") if (kinds == world).any()]

    def states(self, numbers_b: Tensor) -> States:
        """What the denoiser reads; `len(self)` is the empty text. All batches have one length."""
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
class _Laid:
    """One laying of a part: places in the part of the images that have a text in it, and these texts' windows."""

    laying: int
    places: NDArray[np.int64]
    windows: list[list[list[int]]]


def _read(model: Path, orientations: int, file: Path) -> tuple[Part, list[_Laid]]:
    part = read_part(file)
    laid: list[_Laid] = []
    for laying in _chosen(part, orientations, file):
        texts = [each[laying] for each in part.turned] if laying else part.texts
        told = {place: text for place, text in enumerate(texts) if text is not None}
        windows = [[ids for ids, _ in windows] for windows in windows_of(model, list(told.values()))]
        laid.append(_Laid(laying, np.array(list(told), np.int64), windows))
    return part, laid


def _chosen(part: Part, orientations: int, file: Path) -> list[int]:
    """The images as they are, and of the other layings so many, from file to file others."""
    if orientations > 1 and not part.turned:
        raise UserError("drawn by an earlier loraloom, without texts of turned images", got=str(file), fix="delete it")
    others = [laying for laying in range(1, ORIENTATIONS) if any(each[laying] for each in part.turned)]
    start = int(file.stem.split("_")[1]) // PART * (orientations - 1)
    return [0, *(others[(start + place) % len(others)] for place in range(min(orientations - 1, len(others))))]


def laid_out(pixels_bchw: Tensor, laying: int) -> Tensor:
    """Square images in one of `LAYINGS`."""
    quarter = ORIENTATIONS // 2
    return torch.rot90(pixels_bchw.flip(3) if laying >= quarter else pixels_bchw, -(laying % quarter), (2, 3))


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
        files: From `write_parts`.
        model: A model folder with the tokenizer.
        encode: (b, 3, 256, 256) pixels on the device to (b, 4, 32, 32) latents.
        read: (m, 77) token ids on the device to (m, 77, d) states.
        device: Of the bank.
        progress: Told files done and in all.
        known: Latents of these files, made before.
        layings: In how many layings, of `LAYINGS`, each image is learned.
        batch_size: Images encoded together.

    Raises:
        UserError: A file has no texts for other layings.
    """
    latents: list[Tensor] = []
    grids: list[NDArray[np.uint8]] = []
    texts: list[list[list[int]]] = []
    worlds: list[str] = []
    origins: list[NDArray[np.int64]] = []
    drawn = 0
    with closing(spread(partial(_read, model, orientations), files, usable_cores())) as parts:
        for done, (part, laid) in enumerate(parts, 1):
            coarse = torch.from_numpy(_grids(part)).permute(0, 3, 1, 2)
            for each in laid:
                for first in range(0, len(each.places) if known is None else 0, batch_size):
                    pixels_bchw = _pixels(part, each.places[first : first + batch_size], device)
                    latents.append(encode(laid_out(pixels_bchw, each.laying)).half())
                grids.append(laid_out(coarse[each.places], each.laying).permute(0, 2, 3, 1).numpy())
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
    """(m + 1, 77, d) float16, a row of zeros last. Filled in place: put together, it would be there twice for a moment."""
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
    """`grids_of` the part's images, without painting them whole."""
    if part.marks is None or part.palettes is None:
        return grids_of(part.images())
    return np.stack([palette[marks] for palette, marks in zip(part.palettes, grids_of(part.marks), strict=True)])
