"""The denoising objective of models trained by DDPM or rectified flow.

In: clean latents, noise, training steps and the model's `NoiseSchedule`. Out: noisy latents, the target, the loss of each
image. Formulas: forward process and epsilon, Ho et al. 2020 (eq. 4, 14); v-prediction, Salimans & Ho 2022 (appendix
D); flow, Liu et al. 2022; min-SNR weight, Hang et al. 2023 (eq. 7, and its form for v and flow); offset noise,
Guttenberg 2023 ("Diffusion with offset noise"). Parity with diffusers' DDPMScheduler is tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from loraloom.protocols.model import NoiseSchedule
from loraloom.utils.rng import generator

Share = TypeVar("Share", float, Tensor)


@dataclass(frozen=True, slots=True)
class Objective:
    """A noise schedule with everything that decides the loss. `timesteps_b` are training steps, int64.

    Attributes:
        timestep_t, signal_t, sigma_t: (t,) float32 on the training device, see `NoiseSchedule`.
        snr_t: (t,) float32: signal_t^2 / sigma_t^2; infinite where there is no noise.
        prediction_type: `epsilon`, `v_prediction` or `flow`.
        snr_gamma: Limit of the min-SNR loss weight; None: all timesteps have the same weight.
        noise_offset: Standard deviation of the noise that is constant over a channel.
    """

    timestep_t: Tensor
    signal_t: Tensor
    sigma_t: Tensor
    snr_t: Tensor
    prediction_type: Literal["epsilon", "v_prediction", "flow"]
    snr_gamma: float | None = None
    noise_offset: float = 0.0

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the forward process."""
        return self.signal_t.shape[0]

    def add_noise(self, latents_bchw: Tensor, noise_bchw: Tensor, timesteps_b: Tensor) -> Tensor:
        """signal x + sigma noise, in the latents' dtype."""
        signal_b, sigma_b = self._shares(timesteps_b)
        return (signal_b * latents_bchw + sigma_b * noise_bchw).to(latents_bchw.dtype)

    def target(self, latents_bchw: Tensor, noise_bchw: Tensor, timesteps_b: Tensor) -> Tensor:
        """What the denoiser should answer: the noise, signal noise - sigma x, or noise - x."""
        if self.prediction_type == "epsilon":
            return noise_bchw
        if self.prediction_type == "flow":
            return noise_bchw - latents_bchw
        signal_b, sigma_b = self._shares(timesteps_b)
        return signal_b * noise_bchw - sigma_b * latents_bchw

    def weights(self, timesteps_b: Tensor) -> Tensor:
        """(b,) float32 weight of each training step: min(snr, gamma) times the step's error of x_0 over its error of what is
        predicted: / snr for the noise, / (snr + 1) for v, x sigma^2 for flow."""
        if self.snr_gamma is None:
            return torch.ones_like(timesteps_b, dtype=torch.float32)
        snr_b = self.snr_t[timesteps_b]
        if self.prediction_type == "flow":
            signal_b, sigma_b = self.signal_t[timesteps_b], self.sigma_t[timesteps_b]
            return torch.minimum(signal_b.square(), self.snr_gamma * sigma_b.square())
        limited_b = snr_b.clamp(max=self.snr_gamma)
        return limited_b / (snr_b + 1 if self.prediction_type == "v_prediction" else snr_b)

    def loss(
        self,
        prediction_bchw: Tensor,
        target_bchw: Tensor,
        timesteps_b: Tensor,
        latent_weights_bhw: Tensor | None = None,
    ) -> Tensor:
        """(b,) float32: each image's mean squared error times its timestep's weight; a weighted mean with latent weights."""
        error_bchw = (prediction_bchw.float() - target_bchw.float()).square()
        if latent_weights_bhw is not None:
            error_bchw = error_bchw * latent_weights_bhw[:, None]
        return error_bchw.mean(dim=(1, 2, 3)) * self.weights(timesteps_b)

    def _shares(self, timesteps_b: Tensor) -> tuple[Tensor, Tensor]:
        return self.signal_t[timesteps_b][:, None, None, None], self.sigma_t[timesteps_b][:, None, None, None]


def make_objective(
    schedule: NoiseSchedule,
    *,
    snr_gamma: float | None = None,
    noise_offset: float = 0.0,
    device: torch.device | str = "cpu",
) -> Objective:
    """The objective that a model's schedule asks for, on a device."""
    snr_t = (schedule.signal_t / schedule.sigma_t).square()
    tables = (schedule.timestep_t, schedule.signal_t, schedule.sigma_t, snr_t)
    timestep_t, signal_t, sigma_t, snr_t = (table.float().to(device) for table in tables)
    return Objective(timestep_t, signal_t, sigma_t, snr_t, schedule.prediction_type, snr_gamma, noise_offset)


def draw_noise(
    shape_chw: Sequence[int], noise_offset: float, *parts: str | int, device: torch.device | str = "cpu"
) -> Tensor:
    """(c, h, w) float32 noise of one image on a device, decided by the parts; offset noise is constant over a channel.

    The parts decide it on each kind of device; a GPU's noise is not the CPU's.
    """
    source = generator(*parts, "noise", device=device)
    noise_chw = torch.randn(shape_chw, generator=source, device=device)
    if noise_offset:
        offset_c11 = torch.randn((shape_chw[0], 1, 1), generator=source, device=device)
        noise_chw = noise_chw + noise_offset * offset_c11
    return noise_chw


@dataclass(frozen=True, slots=True)
class TimestepSampling:
    """Which timesteps are learned how often.

    Attributes:
        kind: `uniform`, or `logit_normal`: the share of the way to pure noise is sigmoid(mean + std * n), n standard normal
            (Esser et al. 2024, section 3.1; diffusers' `compute_density_for_timestep_sampling`).
        mean, std: Parameters of `logit_normal`; a mean below 0 learns little noise more often, where details are decided.
        shift: Timestep shift, see `shifted`, on top of the model's own shift; 1: no other shift.
    """

    kind: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def for_size(self, schedule: NoiseSchedule, height: int, width: int) -> "TimestepSampling":
        """The same with the shift that the model's samplers have for images of that many pixels: two shifts multiply."""
        return self if schedule.shift is None else replace(self, shift=self.shift * schedule.shift(height, width))

    def draw(self, num_timesteps: int, *parts: str | int) -> int:
        """A timestep in 0 .. num_timesteps - 1, decided by the parts."""
        source = generator(*parts, "timestep")
        if self.kind == "uniform":
            share = (int(torch.randint(num_timesteps, (), generator=source)) + 0.5) / num_timesteps
        else:
            share = float(torch.sigmoid(self.mean + self.std * torch.randn((), generator=source, dtype=torch.float64)))
        return min(int(shifted(share, self.shift) * num_timesteps), num_timesteps - 1)


UNIFORM = TimestepSampling()


def shifted(share: Share, shift: float) -> Share:
    """Times in (0, 1) moved, Esser et al. 2024 (eq. 23): shift * t / (1 + (shift - 1) * t); above 1 towards much noise."""
    return shift * share / (1 + (shift - 1) * share)
