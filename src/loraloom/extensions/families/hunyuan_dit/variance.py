"""The variational bound that Tencent's trainer learns the variance half of the denoiser's answer by.

In: an answer with its two halves, clean and noisy latents, training steps. Out: a loss of each image, in bits a value. Nichol
& Dhariwal 2021, "Improved DDPM" (eq. 15 to 17, L_vlb with the mean detached), as `training_losses` of hydit's
gaussian_diffusion.py adds it to the mean squared error. No sampler in use reads that half.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceBound:
    """Tables over training steps, float64 on the CPU.

    Attributes:
        signal_t, sigma_t: The factors in x_t = signal x_0 + sigma noise.
        of_clean_t, of_noisy_t: The posterior's mean is of_clean x_0 + of_noisy x_t.
        least_t, largest_t: Logarithms of the posterior's variance, that of step 1 at step 0, and of beta.
    """

    signal_t: Tensor
    sigma_t: Tensor
    of_clean_t: Tensor
    of_noisy_t: Tensor
    least_t: Tensor
    largest_t: Tensor

    def loss(self, answer_bchw: Tensor, clean_bchw: Tensor, noisy_bchw: Tensor, steps_b: Tensor) -> Tensor:
        """(b,) float32: the Kullback-Leibler divergence of each step, at step 0 the likelihood of the latents.

        Args:
            answer_bchw: (b, 2c, h, w): the velocity, which gets no gradient here, and the share of the way from the least
                to the largest variance, -1 to 1.
            clean_bchw, noisy_bchw: (b, c, h, w) latents.
            steps_b: (b,) int64 training steps.
        """
        velocity, share = answer_bchw.float().chunk(2, dim=1)
        velocity, clean, noisy = velocity.detach(), clean_bchw.float(), noisy_bchw.float()

        def at(table_t: Tensor) -> Tensor:
            return table_t.to(steps_b.device)[steps_b].float()[:, None, None, None]

        found = at(self.signal_t) * noisy - at(self.sigma_t) * velocity
        mean = at(self.of_clean_t) * found + at(self.of_noisy_t) * noisy
        wanted = at(self.of_clean_t) * clean + at(self.of_noisy_t) * noisy
        weight = (share + 1) / 2
        log_variance = weight * at(self.largest_t) + (1 - weight) * at(self.least_t)
        gap = at(self.least_t) - log_variance
        divergence = 0.5 * (-1 - gap + gap.exp() + (wanted - mean).square() * (-log_variance).exp())
        first = -_log_likelihood(clean, mean, 0.5 * log_variance)
        chosen = torch.where((steps_b == 0)[:, None, None, None], first, divergence)
        return chosen.mean(dim=(1, 2, 3)) / math.log(2)


def variance_bound(beta_start: float, beta_end: float, num_steps: int) -> VarianceBound:
    """The tables of a `scaled_linear` schedule: the roots of beta rise evenly."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    variance = betas * (1 - before) / (1 - kept)
    return VarianceBound(
        signal_t=kept.sqrt(),
        sigma_t=(1 - kept).sqrt(),
        of_clean_t=betas * before.sqrt() / (1 - kept),
        of_noisy_t=(1 - before) * (1 - betas).sqrt() / (1 - kept),
        least_t=torch.cat([variance[1:2], variance[1:]]).log(),
        largest_t=betas.log(),
    )


def _log_likelihood(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Logarithm of the probability that a Gaussian gives to the 1/255 around a value; the ends hold the rest.

    The distribution function is the tanh approximation that hydit uses.
    """
    upper = _share_below((value - mean + 1 / 255) * (-log_scale).exp())
    lower = _share_below((value - mean - 1 / 255) * (-log_scale).exp())
    middle = (upper - lower).clamp(min=1e-12).log()
    ends = torch.where(value > 0.999, (1 - lower).clamp(min=1e-12).log(), middle)
    return torch.where(value < -0.999, upper.clamp(min=1e-12).log(), ends)


def _share_below(value: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
