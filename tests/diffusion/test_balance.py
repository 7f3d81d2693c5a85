"""Every noise level counts alike, whoever saw which image."""

import torch
from torch import Tensor

from loraloom.diffusion.balance import BUCKETS, NoiseBalance

T = 1000
YES = torch.tensor(True)


def curve(timesteps_b: Tensor) -> Tensor:
    """A loss that falls to a tenth in the middle, as losses of velocities do."""
    return 0.07 + 0.6 * ((timesteps_b - 350) / 650).square()


def seen(steps: int, batch: int = 16) -> tuple[NoiseBalance, torch.Generator]:
    source = torch.Generator().manual_seed(0)
    balance = NoiseBalance(T)
    for _ in range(steps):
        timesteps_b = torch.randint(T, (batch,), generator=source)
        losses_b = curve(timesteps_b) * (0.3 * torch.randn(batch, generator=source)).exp()
        balance.update(balance.tally(losses_b, timesteps_b, torch.ones(batch)), YES)
    return balance, source


def test_all_weights_are_one_before_anything_was_seen() -> None:
    assert torch.equal(NoiseBalance(T).weights(torch.arange(T)), torch.ones(T))


def test_weighted_losses_become_alike_at_all_noise_levels() -> None:
    timesteps_t = torch.arange(T)
    weights_t = seen(300)[0].weights(timesteps_t)
    assert abs(float(weights_t.mean()) - 1) < 0.03
    plain_k = curve(timesteps_t).view(20, -1).mean(1)
    even_k = (weights_t * curve(timesteps_t)).view(20, -1).mean(1)
    assert float(plain_k.max() / plain_k.min()) > 8
    assert float(even_k.max() / even_k.min()) < 2


def test_one_step_gives_every_timestep_a_weight_though_most_levels_were_not_seen() -> None:
    weights_t = seen(1, batch=2)[0].weights(torch.arange(T))
    assert torch.isfinite(weights_t).all()
    assert float(weights_t.min()) > 0


def test_tallies_of_devices_add_up_and_repeats_do_not_count() -> None:
    balance, source = seen(3)
    timesteps_b = torch.randint(T, (8,), generator=source)
    losses_b, ones_b = torch.rand(8, generator=source), torch.ones(8)
    whole = balance.tally(losses_b, timesteps_b, ones_b)
    parts = [balance.tally(losses_b[part], timesteps_b[part], ones_b[part]) for part in (slice(0, 5), slice(5, 8))]
    assert torch.allclose(whole, parts[0] + parts[1])
    repeats_b = torch.cat([ones_b, torch.zeros(8)])
    assert torch.allclose(whole, balance.tally(losses_b.repeat(2), timesteps_b.repeat(2), repeats_b))
    assert int(whole.view(2, BUCKETS)[1].sum()) == 8


def test_a_step_that_was_not_finite_is_forgotten() -> None:
    balance, _ = seen(3)
    before = balance.seen_2k.clone()
    poison = balance.tally(torch.tensor([float("nan")]), torch.tensor([500]), torch.ones(1))
    balance.update(poison, torch.tensor(False))
    assert torch.equal(balance.seen_2k, before)
