"""Solvers of flow-matching models by name, each a diffusers scheduler.

In: the model's scheduler config, a number of steps and the mu of an image's size. Out: a `protocols.model.Sampler`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from loraloom.extensions.families._flow.schedule import shift_of
from loraloom.utils.errors import UserError, did_you_mean

SAMPLERS = ("euler", "dpmpp_2m")


@dataclass(frozen=True, slots=True)
class FlowSampler:
    """See `protocols.model.Sampler`. Noise is never added after the first step."""

    scheduler: Any

    @property
    def timesteps(self) -> Tensor:
        """(num_steps,) times from 1,000 (noise) down."""
        return self.scheduler.timesteps

    @property
    def init_noise_sigma(self) -> float:
        """1: the latents begin as noise."""
        return 1.0

    def scale_input(self, latents_bchw: Tensor, timestep: Tensor) -> Tensor:
        """The latents as they are."""
        return latents_bchw

    def noised(self, clean_bchw: Tensor, noise_bchw: Tensor, number: int) -> Tensor:
        """(1 - t) clean + t noise."""
        return torch.lerp(clean_bchw, noise_bchw, float(self.scheduler.sigmas[number]))

    def step(
        self, prediction_bchw: Tensor, timestep: Tensor, latents_bchw: Tensor, generators: list[torch.Generator]
    ) -> Tensor:
        """One step along the velocity."""
        return self.scheduler.step(prediction_bchw, timestep, latents_bchw, return_dict=False)[0]


def make_sampler(
    name: str, config: Mapping[str, Any], num_steps: int, mu: float, device: torch.device, *, from_one: bool
) -> FlowSampler:
    """A solver with its times.

    Args:
        name: One of `SAMPLERS`.
        config: The scheduler's config.
        num_steps: Number of evaluations.
        mu: The mu of the size of the image; read where the scheduler shifts by size.
        device: Where its tables lie.
        from_one: Times before the shift are 1, 1 - 1/n, .. 1/n, as in the pipelines of FLUX and Z-Image; else the
            scheduler's own, which end at its smallest time.

    Raises:
        UserError: Unknown name, or more steps than the schedule has.
    """
    if name not in SAMPLERS:
        raise UserError("unknown sampler", got=name, fix=did_you_mean(name, SAMPLERS))
    most = int(config.get("num_train_timesteps", 1000))
    if num_steps > most:
        raise UserError(f"too many steps for {name}", got=num_steps, expected=f"at most {most}")
    if name == "dpmpp_2m":
        solver: Any = DPMSolverMultistepScheduler(
            num_train_timesteps=most,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift_of(config, mu),
        )
        solver.set_timesteps(num_steps, device=device)
        solver.timesteps = (most * solver.sigmas[:-1]).to(device)  # the library rounds them to whole numbers
        return FlowSampler(solver)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    times = np.linspace(1.0, 1 / num_steps, num_steps) if from_one else None
    dynamic = bool(scheduler.config.use_dynamic_shifting)
    scheduler.set_timesteps(num_steps, sigmas=times, mu=mu if dynamic else None, device=device)
    return FlowSampler(scheduler)
