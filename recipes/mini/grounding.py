"""Train the denoiser's deepest layers to predict the places of things from their text.

In: a bank with prompt embeddings and coarse grids of the images' colours. Out: a denoiser whose features at 8 x 8, for pure
noise, predict the colour of each of 16 x 16 cells. The denoising loss gives only a weak signal for this: most of it is
noise, at most timesteps the image itself shows its layout, and a mean square leads to the mean of all layouts, while a
cross-entropy separates them. The layer that predicts the colours is discarded afterwards.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from loraloom.utils.rng import derive_seed
from recipes.mini.bank import Bank, States
from recipes.mini.data import GRID
from recipes.mini.fitting import Fit, Job, Way, fit
from recipes.mini.layout import LATENT_CHANNELS, NUM_TIMESTEPS, deep_features, deep_parts

NUM_COLOURS = 48
MEASURED = 64
"""Number of held-out images of each world for the measurement."""


class ColourPredictor(nn.Module):
    """The denoiser's deep parts, and a layer that predicts the colours of the four cells of each of their positions.

    The denoiser's outer parts are used unchanged; their weights are not parameters of this module.
    """

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self._used = (denoiser,)
        self.deep = deep_parts(denoiser)
        width = denoiser.config.block_out_channels[-1]
        self.conv_out = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 4 * NUM_COLOURS, 1), nn.PixelShuffle(2)
        )

    def forward(self, states: States, noise_bchw: Tensor) -> Tensor:
        """Pure noise (b, 4, 2 * GRID, 2 * GRID): logits (b, classes, GRID * GRID)."""
        last = torch.full((len(noise_bchw),), NUM_TIMESTEPS - 1, device=noise_bchw.device)
        return self.conv_out(deep_features(self._used[0], noise_bchw, last, states)).flatten(2)


def classes_of(grids: NDArray[np.uint8], palette: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(n, g, g, 3) to the number of the nearest of (k, 3) colours, (n, g * g) int64."""
    colours_k3 = torch.from_numpy(palette).to(device).float()
    flat = torch.from_numpy(np.ascontiguousarray(grids)).flatten(1, 2)
    return torch.cat([torch.cdist(part.to(device).float(), colours_k3).argmin(-1) for part in flat.split(1024)])


def palette_of(grids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`NUM_COLOURS` colours that represent all cells (median cut)."""
    cells = Image.fromarray(grids.reshape(1, -1, 3))
    found = cells.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    colours = np.asarray(found[: 3 * NUM_COLOURS], np.uint8).reshape(-1, 3)
    return np.concatenate([colours, np.zeros((NUM_COLOURS - len(colours), 3), np.uint8)])


def how_to_ground(steps: int) -> Fit:
    """Muon, at a rate at which a briefly trained denoiser leaves the plateau within 100 steps (decision 0010)."""
    return Fit(steps, 8e-3, muon=True)


def ground(denoiser: Any, bank: Bank, way: Way, how: Fit, job: Job) -> bool:
    """Train, or continue training; returns whether all steps are done.

    Args:
        denoiser: Denoiser of `make_denoiser`'s layout, briefly trained, so that its features distinguish places; its deep
            parts are trained in place.
        bank: Training data, with the coarse colours of the images.
        way: Number of texts in a step, and precision.
        how: `how_to_ground`, or another optimizer to compare with.
        job: State file and device. Its log has the loss and, for each world, the share of the uncertainty about a cell of
            held-out images that the text removes, beyond what the world alone removes: 0 if it removes nothing.
    """
    device = job.device
    grids = bank.grids_ngg3
    classes = classes_of(grids, palette_of(grids[:: max(1, len(grids) // 500)]), device)
    learned, held_out, kinds = bank.learned, bank.held_out, np.array(bank.worlds)
    measured = sorted({*kinds[held_out]} & {*kinds[learned]})
    logs = {world: _log_shares(classes[learned[kinds[learned] == world]]) for world in measured}
    prior_kp = _log_shares(classes[learned])
    denoiser.to(device).requires_grad_(False)
    torch.manual_seed(derive_seed("grounding", "start"))  # for the layer that is discarded
    predictor = ColourPredictor(denoiser).to(device).train().requires_grad_(True)

    def errors(numbers: NDArray[np.int64], *seed: str | int) -> Tensor:
        source = torch.Generator(device).manual_seed(derive_seed("grounding", *seed))
        shape = (len(numbers), LATENT_CHANNELS, 2 * GRID, 2 * GRID)
        noise_bchw = torch.randn(shape, generator=source, device=device)
        numbers_b = torch.from_numpy(numbers).to(device)
        states = bank.states(numbers_b)
        with way.autocast(device):
            logits = predictor(States(states.hidden_bld.float(), states.mask_bl), noise_bchw).float()
        return F.cross_entropy(logits + prior_kp, classes[numbers_b])

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        numbers: dict[str, float] = {}
        if step % 50 == 49:
            for world, log_kp in logs.items():
                some = held_out[kinds[held_out] == world][:MEASURED]
                blind = F.nll_loss(log_kp.expand(len(some), -1, -1), classes[torch.from_numpy(some).to(device)])
                with torch.no_grad():
                    numbers[world] = 1 - float(errors(some, "held out")) / float(blind)
        rng = np.random.default_rng(derive_seed("grounding", step))
        return errors(rng.choice(learned, way.batch_size), step), numbers

    try:
        return fit(predictor, loss, how, job)
    finally:
        denoiser.requires_grad_(True)


def _log_shares(classes_np: Tensor) -> Tensor:
    """(n, cells) classes to (classes, cells) logarithms of the share of each class in a cell."""
    return F.one_hot(classes_np, NUM_COLOURS).float().mean(0).T.clamp(min=1e-4).log()
