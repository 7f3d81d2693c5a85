"""Solvers by name, each a diffusers scheduler with the settings that its name promises.

In: the model's scheduler config and a number of steps. Out: a `contracts.Sampler`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from loraloom.errors import UserError, did_you_mean

SAMPLERS: Mapping[str, tuple[type[Any], Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
"""Name: diffusers class and what is set beyond the model's own scheduler config."""

_TAKES_GENERATOR = {"euler_a", "lcm"}


@dataclass(frozen=True, slots=True)
class DiffusersSampler:
    """A diffusers scheduler behind the `Sampler` contract."""

    name: str
    scheduler: Any

    @property
    def timesteps(self) -> Tensor:
        """(num_steps,) timesteps from noise to picture."""
        return self.scheduler.timesteps

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation that the first noise is to have."""
        return float(self.scheduler.init_noise_sigma)

    def scale_input(self, latents_bchw: Tensor, timestep: Tensor) -> Tensor:
        """The latents at the scale that the denoiser was trained with."""
        return self.scheduler.scale_model_input(latents_bchw, timestep)

    def step(
        self, prediction_bchw: Tensor, timestep: Tensor, latents_bchw: Tensor, generators: list[torch.Generator]
    ) -> Tensor:
        """One solver step; a list of generators gives each picture its own noise."""
        extra = {"generator": generators} if self.name in _TAKES_GENERATOR else {}
        return self.scheduler.step(prediction_bchw, timestep, latents_bchw, return_dict=False, **extra)[0]


def make_sampler(name: str, config: Mapping[str, Any], num_steps: int, device: torch.device) -> DiffusersSampler:
    """A solver with its timesteps set.

    Raises:
        UserError: Unknown name.
    """
    if name not in SAMPLERS:
        raise UserError("unknown sampler", got=name, fix=did_you_mean(name, SAMPLERS))
    kind, settings = SAMPLERS[name]
    scheduler = kind.from_config(dict(config), **settings)
    scheduler.set_timesteps(num_steps, device=device)
    return DiffusersSampler(name, scheduler)
