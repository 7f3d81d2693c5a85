"""Teach the text encoder where things are, before the denoiser has to read it.

In: texts and coarse grids of their pictures' colours. Out: a text encoder from whose states a small reader can tell the
colour of each of 16 x 16 cells. The denoiser learns the same from pictures at their noisiest, but every picture costs it
some seven times as much, and half of them are too clear to need the text. The reader is thrown away.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from loraloom.mini.fitting import Fit, fit
from loraloom.mini.layout import GRID, TEXT_WIDTH
from loraloom.prompts.combine import collate
from loraloom.randomness import derive_seed

NUM_COLOURS = 48
BATCH = 32
HELD_OUT = 20
"""One of so many texts is not learned, but measured."""


class Reader(nn.Module):
    """Cells ask the text: learned queries, two layers of attention among cells and to the text's states, a class each."""

    def __init__(self, width: int = TEXT_WIDTH) -> None:
        super().__init__()
        self.cells = nn.Parameter(torch.randn(GRID * GRID, width) * 0.5)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(width))
        self.classes = nn.Linear(width, NUM_COLOURS)

    def forward(self, hidden_bld: Tensor, mask_bl: Tensor | None) -> Tensor:
        """States (b, l, d), mask True where there is text: logits (b, classes, GRID * GRID)."""
        cells = self.cells.expand(len(hidden_bld), -1, -1)
        hidden = None if mask_bl is None else ~mask_bl
        return self.classes(self.layers(cells, hidden_bld, memory_key_padding_mask=hidden)).transpose(1, 2)


def classes_of(grids: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n, g, g, 3) to the number of the nearest of (k, 3) colours, (n, g * g)."""
    flat = grids.reshape(len(grids), -1, 1, 3).astype(np.int32)
    return np.concatenate([((part - palette.astype(np.int32)) ** 2).sum(-1).argmin(-1)[None] for part in flat])


def palette_of(grids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`NUM_COLOURS` colours that stand for all cells (median cut)."""
    cells = Image.fromarray(grids.reshape(1, -1, 3))
    found = cells.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    colours = np.asarray(found[: 3 * NUM_COLOURS], np.uint8).reshape(-1, 3)
    return np.concatenate([colours, np.zeros((NUM_COLOURS - len(colours), 3), np.uint8)])


def ground(
    text_encoder: Any,
    grids: NDArray[np.uint8],
    windows: Sequence[Sequence[Sequence[int]]],
    steps: int,
    state: Path,
    say: Callable[[str], None],
    *,
    device: torch.device = torch.device("cpu"),
    deadline: float = float("inf"),
) -> bool:
    """Train, or go on; returns whether all steps are done.

    Args:
        text_encoder: A CLIPTextModel; learns in place.
        grids: (n, GRID, GRID, 3) uint8, from `grid_of`.
        windows: For each picture the token ids of each window of its text, 77 each.
        steps: Optimizer steps.
        state: Where the state is kept.
        say: Told how it goes: besides the loss `explained`, the share of the uncertainty about a cell of a held-out
            picture that its text takes away: 0 for a text encoder that says nothing.
        device: Where to compute.
        deadline: As in `fit`.
    """
    classes = torch.from_numpy(classes_of(grids, palette_of(grids[:: max(1, len(grids) // 500)])))
    learned = np.array([number for number in range(len(classes)) if number % HELD_OUT])
    held_out = np.arange(0, len(classes), HELD_OUT)
    shares_kp = F.one_hot(classes[learned], NUM_COLOURS).float().mean(0).T.clamp(min=1e-4)  # of each class in each cell
    both = nn.ModuleDict({"text": text_encoder, "reader": Reader()}).to(device).train()

    def errors(numbers: NDArray[np.int64]) -> Tensor:
        ids = torch.tensor([window for number in numbers for window in windows[number]], device=device)
        parts = both["text"](ids).last_hidden_state.split([len(windows[number]) for number in numbers])
        states = collate(list(parts))
        logits = both["reader"](states.hidden_bld, states.mask_bl) + shares_kp.log().to(device)
        return F.cross_entropy(logits, classes[numbers].to(device))

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        chance = np.random.default_rng(derive_seed("grounding", step))
        numbers: dict[str, float] = {}
        if step % 50 == 49:
            some = held_out[:: max(1, len(held_out) // 64)]
            with torch.no_grad():
                told = float(errors(some))
            blind = float(F.nll_loss(shares_kp.log().expand(len(some), -1, -1), classes[some]))
            numbers["explained"] = 1 - told / blind
        return errors(chance.choice(learned, BATCH)), numbers

    return fit(both, loss, Fit(steps, 1e-3), state, say, deadline)
