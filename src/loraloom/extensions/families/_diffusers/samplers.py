"""Solvers by name, each a diffusers scheduler with fixed settings.

In: the model's scheduler config and a number of steps. Out: a `protocols.model.Sampler`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from loraloom.utils.errors import UserError, did_you_mean

SAMPLERS: Mapping[str, tuple[type[Any], Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"use_karras_sigmas": False, "algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {"use_karras_sigmas": False}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
"""Name to diffusers class and settings that override the model's scheduler config."""

_TAKES_GENERATOR = {"ddpm", "euler_a", "lcm"}


@dataclass(frozen=True, slots=True)
class DiffusersSampler:
    """A diffusers scheduler that implements the `Sampler` protocol."""

    name: str
    scheduler: Any

    @property
    def timesteps(self) -> Tensor:
        """(num_steps,) timesteps from noise to image."""
        return self.scheduler.timesteps

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the initial noise."""
        return float(self.scheduler.init_noise_sigma)

    def scale_input(self, latents_bchw: Tensor, timestep: Tensor) -> Tensor:
        """The latents at the scale that the denoiser was trained with."""
        return self.scheduler.scale_model_input(latents_bchw, timestep)

    def noised(self, clean_bchw: Tensor, noise_bchw: Tensor, number: int) -> Tensor:
        """Clean latents with the noise that the solver expects before a step; see the protocol."""
        if number >= len(self.timesteps):
            return clean_bchw
        timesteps_b = self.timesteps[number].expand(clean_bchw.shape[0])
        return self.scheduler.add_noise(clean_bchw, noise_bchw, timesteps_b)

    def step(
        self, prediction_bchw: Tensor, timestep: Tensor, latents_bchw: Tensor, generators: list[torch.Generator]
    ) -> Tensor:
        """One solver step; a list of generators gives each image its own noise."""
        extra = {"generator": generators} if self.name in _TAKES_GENERATOR else {}
        return self.scheduler.step(prediction_bchw, timestep, latents_bchw, return_dict=False, **extra)[0]


def make_sampler(name: str, config: Mapping[str, Any], num_steps: int, device: torch.device) -> DiffusersSampler:
    """Make a solver with its timesteps.

    Raises:
        UserError: Unknown name, or more steps than the solver can take.
    """
    if name not in SAMPLERS:
        raise UserError("unknown sampler", got=name, fix=did_you_mean(name, SAMPLERS))
    kind, settings = SAMPLERS[name]
    scheduler = kind.from_config(dict(config), **settings)
    # LCM selects its steps from few (Luo et al. 2023); the others would repeat timesteps beyond the schedule's length.
    most = min(scheduler.config.num_train_timesteps, scheduler.config.get("original_inference_steps") or num_steps)
    if num_steps > most:
        raise UserError(f"too many steps for {name}", got=num_steps, expected=f"at most {most}")
    try:
        scheduler.set_timesteps(num_steps, device=device)
    except ValueError as error:
        raise UserError(
            f"{name} cannot take this number of steps", got=num_steps, fix=str(error).split(".")[0]
        ) from error
    return DiffusersSampler(name, scheduler)
