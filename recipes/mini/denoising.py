"""Train the denoiser on a bank of latents and prompt embeddings, with the objective of `train`.

In: a denoiser, a bank. Out: the trained denoiser. `train --method full` does the same for a dataset of files, one
image after another; here a batch is a few operations on the device (decision 0014).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.diffusion.balance import NoiseBalance
from loraloom.diffusion.objective import make_objective, shifted
from loraloom.protocols.model import NoiseSchedule
from loraloom.utils.rng import derive_seed
from recipes.mini.attention import MaskAsChannel
from recipes.mini.bank import Bank
from recipes.mini.data import PLAN_SHARE
from recipes.mini.fitting import Fit, Job, Way, fit

CAPTION_DROPOUT = 0.1
MEASURE_EVERY = 500
MEASURED = 512
"""Number of held-out images whose loss is measured."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of training.

    Attributes:
        schedule: Noise schedule of the model.
        shift: Shift towards much noise, see `diffusion.objective.shifted`; 1 is none.
        balanced: Give every noise level the same weight, see `diffusion.balance`.
        seed: Seed of the noise; different for each fit.
    """

    schedule: NoiseSchedule
    shift: float = 1.0
    balanced: bool = False
    seed: str = "denoiser"


class _Pass(nn.Module):
    """A forward pass of the denoiser with tensors only."""

    def __init__(self, denoiser: Any, way: Way, device: str, *, compiled: bool = False) -> None:
        super().__init__()
        self.denoiser = torch.compile(denoiser, dynamic=False) if compiled else denoiser
        self._way, self._device = way, device

    def forward(self, noisy_bchw: Tensor, timesteps_b: Tensor, hidden_bld: Tensor, mask_bl: Tensor) -> Tensor:
        with self._way.autocast(self._device):
            answer_bchw = self.denoiser(
                noisy_bchw, timesteps_b, encoder_hidden_states=hidden_bld, encoder_attention_mask=mask_bl,
                return_dict=False,
            )[0]  # fmt: skip
        return answer_bchw.float()


def fit_denoiser(denoiser: Any, bank: Bank, noise: Noise, way: Way, how: Fit, job: Job) -> bool:
    """Train, or continue training; returns whether all steps are done.

    Args:
        denoiser: Denoiser, trained in place.
        bank: Training data on the job's device.
        noise: Noise that is added to latents.
        way: Batch size, precision and whether to record.
        how: Number of steps and rates.
        job: State file and device. Its log has `held_out`, the loss of held-out images, at intervals.
    """
    usual = dict(denoiser.attn_processors)
    if job.device == "cuda":
        denoiser.set_attn_processor(MaskAsChannel())
    denoiser.to(device=job.device, memory_format=_layout(job.device)).train().requires_grad_(True)
    try:
        return _fit(denoiser, bank, noise, way, how, job)
    finally:
        denoiser.to(memory_format=torch.contiguous_format)
        denoiser.set_attn_processor(usual)


def _layout(device: str) -> torch.memory_format:
    return torch.channels_last if device == "cuda" else torch.contiguous_format


def _fit(denoiser: Any, bank: Bank, noise: Noise, way: Way, how: Fit, job: Job) -> bool:
    device, layout = job.device, _layout(job.device)
    objective = make_objective(noise.schedule, device=device)
    balance = NoiseBalance(objective.num_timesteps, device) if noise.balanced else None
    learned = [torch.from_numpy(numbers).to(device) for numbers in bank.by_world(bank.learned)]
    held_out_n = torch.from_numpy(bank.held_out).to(device)

    def given(numbers_b: Tensor, dropout: float, source: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and target of the denoiser."""
        count = len(numbers_b)
        latents_bchw = bank.latents_nchw[numbers_b].float().contiguous(memory_format=layout)
        noise_bchw = torch.randn(latents_bchw.shape, generator=source, device=device).contiguous(memory_format=layout)
        # One timestep from each of b equal parts: the loss is less noisy, and all timesteps stay equally likely.
        shares_b = (torch.arange(count, device=device) + torch.rand(count, generator=source, device=device)) / count
        timesteps_b = (
            (shifted(shares_b, noise.shift) * objective.num_timesteps).long().clamp(max=objective.num_timesteps - 1)
        )
        dropped_b = torch.rand(count, generator=source, device=device) < dropout
        states = bank.states(torch.where(dropped_b, len(bank), numbers_b))
        assert states.mask_bl is not None
        noisy_bchw = objective.add_noise(latents_bchw, noise_bchw, timesteps_b)
        target_bchw = objective.target(latents_bchw, noise_bchw, timesteps_b)
        return (noisy_bchw, timesteps_b, states.hidden_bld.to(way.dtype), states.mask_bl), target_bchw

    plain = _Pass(denoiser, way, device)
    example, _ = given(held_out_n.repeat(way.batch_size)[: way.batch_size], 0.0, _source(0, device))
    learning = way.recorded(_Pass(denoiser, way, device, compiled=way.compiled), *example)

    def measure() -> float:
        source = _source(derive_seed("held out"), device)
        with torch.no_grad():
            parts = [
                objective.loss(plain(*shown), target_bchw, shown[1])
                for part in held_out_n[:MEASURED].split(way.batch_size)
                for shown, target_bchw in [given(part, 0.0, source)]
            ]
        return float(torch.cat(parts).mean())

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        source = _source(derive_seed(noise.seed, step), device)
        shown, target_bchw = given(_choose(learned, way.batch_size, source), CAPTION_DROPOUT, source)
        losses_b = objective.loss(learning(*shown), target_bchw, shown[1])
        total = (balance.weights(shown[1]) * losses_b).mean() if balance else losses_b.mean()
        if balance:
            tally = balance.tally(losses_b, shown[1], torch.ones_like(losses_b))
            balance.update(tally, torch.isfinite(total))
        measured = step % MEASURE_EVERY == MEASURE_EVERY - 1 or step == how.steps - 1
        return total, {"held_out": measure()} if measured else {}

    return fit(denoiser, loss, how, job, memory={"balance": balance.seen_2k} if balance else {})


def _source(seed: int, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _choose(learned: Sequence[Tensor], count: int, source: torch.Generator) -> Tensor:
    """(count,) numbers of images; each world has a fixed share of a batch, whatever its share of the bank."""
    device = source.device
    sizes = [count] if len(learned) == 1 else [round(PLAN_SHARE * count), count - round(PLAN_SHARE * count)]
    chosen = [
        numbers[torch.randint(len(numbers), (size,), generator=source, device=device)]
        for numbers, size in zip(learned, sizes, strict=True)
    ]
    # Shuffled, because timesteps increase along a batch.
    return torch.cat(chosen)[torch.randperm(count, generator=source, device=device)]
