"""The objective is diffusers' own, and random numbers are functions of their place."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from loraloom.diffusion.objective import UNIFORM, TimestepSampling, draw_noise, make_objective
from loraloom.extensions.families._diffusers.schedule import ddpm_schedule
from loraloom.protocols.model import NoiseSchedule
from loraloom.utils.rng import derive_seed, normal, permutation

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
X, NOISE = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
T = torch.tensor([0, 500, 999])


def objective(prediction_type: str = "epsilon", **kwargs):
    return make_objective(ddpm_schedule(SCHEDULER.alphas_cumprod, prediction_type), **kwargs)  # type: ignore[arg-type]


def test_noise_and_velocity_equal_diffusers() -> None:
    assert torch.allclose(objective().add_noise(X, NOISE, T), SCHEDULER.add_noise(X, NOISE, T), atol=1e-6)
    assert torch.equal(objective().target(X, NOISE, T), NOISE)
    assert torch.allclose(objective("v_prediction").target(X, NOISE, T), SCHEDULER.get_velocity(X, NOISE, T), atol=1e-6)


def test_min_snr_weights_equal_diffusers() -> None:
    from diffusers.training_utils import compute_snr

    snr = compute_snr(SCHEDULER, T)
    expected = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    assert torch.allclose(objective(snr_gamma=5.0).weights(T), expected / snr, rtol=1e-4)
    assert torch.allclose(objective("v_prediction", snr_gamma=5.0).weights(T), expected / (snr + 1), rtol=1e-4)


def test_a_images_loss_does_not_depend_on_its_neighbours() -> None:
    one = objective(snr_gamma=5.0)
    together = one.loss(X, NOISE, T)
    assert torch.allclose(together[1:2], one.loss(X[1:2], NOISE[1:2], T[1:2]))


def test_latent_weights_make_a_weighted_mean() -> None:
    one = objective(snr_gamma=5.0)
    weights_bhw = torch.rand(3, 8, 8) + 0.1
    weights_bhw /= weights_bhw.mean(dim=(1, 2), keepdim=True)
    squared = (X - NOISE).square()
    for image, weights_hw in enumerate(weights_bhw):
        mean = sum(np.average(channel, weights=weights_hw) for channel in squared[image].numpy()) / 4
        expected = float(mean * one.weights(T)[image])
        assert float(one.loss(X, NOISE, T, weights_bhw)[image]) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(one.loss(X, NOISE, T, torch.ones(3, 8, 8)), one.loss(X, NOISE, T))


def test_offset_noise_is_constant_over_a_channel() -> None:
    plain, offset = (draw_noise((4, 8, 8), share, 0, 0, "id") for share in (0.0, 0.3))
    difference = offset - plain
    assert torch.allclose(difference, difference[:, :1, :1].expand_as(difference), atol=1e-6)
    assert float(difference.abs().max()) > 0


@given(st.integers(0, 1000), st.integers(0, 50), st.text(max_size=5))
def test_random_numbers_are_functions_of_their_place(seed: int, epoch: int, id_: str) -> None:
    assert torch.equal(normal((4,), seed, epoch, id_), normal((4,), seed, epoch, id_))
    assert derive_seed(seed, epoch, id_) != derive_seed(seed, epoch + 1, id_)
    assert 0 <= UNIFORM.draw(1000, seed, epoch, id_) < 1000


def test_neighbouring_places_do_not_share_numbers() -> None:
    # ("1", "23") and ("12", "3") would collide if parts were merely joined.
    assert derive_seed("1", "23") != derive_seed("12", "3")
    draws = torch.stack([normal((64,), 0, epoch, "a") for epoch in range(50)])
    assert float(torch.corrcoef(draws).fill_diagonal_(0).abs().max()) < 0.6


def test_a_permutation_is_complete_and_differs_by_epoch() -> None:
    assert sorted(permutation(100, 0, 1)) == list(range(100))
    assert permutation(100, 0, 1) != permutation(100, 0, 2)


def test_shifted_timesteps_are_those_of_the_formula_and_a_shift_of_one_is_uniform() -> None:
    plain = [UNIFORM.draw(1000, place) for place in range(4000)]
    shifted = [TimestepSampling(shift=3.0).draw(1000, place) for place in range(4000)]
    assert abs(sum(plain) / len(plain) - 500) < 20
    # A share t of the uniform ones becomes 3 t / (1 + 2 t): the median moves from a half to three quarters.
    assert abs(sorted(shifted)[2000] - 750) < 20
    for before, after in zip(plain, shifted, strict=True):
        share = (before + 0.5) / 1000
        assert after == int(3 * share / (1 + 2 * share) * 1000) < 1000


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.6, 1.2, 1.0), (0.5, 0.4, 3.0)])
def test_logit_normal_timesteps_have_the_quantiles_of_the_formula(mean: float, std: float, shift: float) -> None:
    sampling = TimestepSampling("logit_normal", mean, std, shift)
    drawn = sorted(sampling.draw(1000, place) for place in range(4000))
    for quantile in (0.1, 0.5, 0.9):
        share = 1 / (1 + math.exp(-(mean + std * NormalDist().inv_cdf(quantile))))
        moved = shift * share / (1 + (shift - 1) * share)
        assert abs(drawn[int(quantile * 4000)] - 1000 * moved) < 25
    assert drawn[0] >= 0 and drawn[-1] < 1000


def test_the_outermost_logit_normal_timestep_is_still_one() -> None:
    """A sigmoid rounds to 1 in float64 from 37 on."""
    assert TimestepSampling("logit_normal", mean=50.0).draw(1000, 0) == 999
    assert TimestepSampling("logit_normal", mean=-50.0).draw(1000, 0) == 0


def flow_schedule(steps: int = 10) -> NoiseSchedule:
    sigma_t = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    return NoiseSchedule(timestep_t=1000 * sigma_t, signal_t=1 - sigma_t, sigma_t=sigma_t, prediction_type="flow")


def test_rectified_flow_is_a_straight_line_from_the_image_to_the_noise() -> None:
    """x_t = (1 - t) x + t noise, and the answer is the line's direction (Liu et al. 2022)."""
    objective = make_objective(flow_schedule())
    clean, noise, steps = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 4, 9])
    time = (steps + 1).float()[:, None, None, None] / 10
    noisy = objective.add_noise(clean, noise, steps)
    assert torch.allclose(noisy, (1 - time) * clean + time * noise, atol=1e-6)
    target = objective.target(clean, noise, steps)
    assert torch.allclose(noisy - time * target, clean, atol=1e-6)
    assert torch.equal(objective.timestep_t[steps], torch.tensor([100.0, 500.0, 1000.0]))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_min_snr_limits_the_error_of_the_clean_latents_in_every_parametrisation(prediction_type: str) -> None:
    """Hang et al. 2023: the loss of x_0 is weighted by min(snr, gamma), whatever the model predicts."""
    schedule = (
        flow_schedule() if prediction_type == "flow" else ddpm_schedule(SCHEDULER.alphas_cumprod, prediction_type)
    )  # type: ignore[arg-type]
    objective, steps = make_objective(schedule, snr_gamma=5.0), torch.tensor([1, 5, 8])
    signal, sigma = schedule.signal_t[steps], schedule.sigma_t[steps]
    to_clean = {"epsilon": sigma / signal, "v_prediction": sigma, "flow": sigma}[prediction_type]
    expected = (signal / sigma).square().clamp(max=5.0) * to_clean.square()
    assert torch.allclose(objective.weights(steps).double(), expected, rtol=1e-3, atol=1e-6)
