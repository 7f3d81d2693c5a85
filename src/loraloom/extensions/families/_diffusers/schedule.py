"""The forward process of a scheduler config, and the sampling defaults of a model that was trained with it.

In: a diffusers scheduler config. Out: a `NoiseSchedule`; the sampling defaults of Stable Diffusion.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from loraloom.protocols.model import NoiseSchedule, SamplingDefaults
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.untrusted import library_errors


def make_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The forward process of a scheduler config, computed by diffusers' own DDPM scheduler.

    Raises:
        UserError: Another prediction type, or noise levels that are not finite.
    """
    prediction_type: Literal["epsilon", "v_prediction"]
    match config.get("prediction_type", "epsilon"):
        case "epsilon":
            prediction_type = "epsilon"
        case "v_prediction":
            prediction_type = "v_prediction"
        case other:
            raise UserError("unknown prediction type", got=other, expected="epsilon or v_prediction")
    # The library would print every unknown key, even a megabyte of them.
    with library_errors("scheduler/scheduler_config.json", "the model's schedule"), quiet():
        scheduler: Any = DDPMScheduler.from_config(dict(config))
    if not bool(scheduler.alphas_cumprod.isfinite().all()) or not bool((scheduler.alphas_cumprod > -1e-12).all()):
        raise UserError(
            "scheduler/scheduler_config.json does not give a schedule", got="noise levels that are not finite"
        )
    return ddpm_schedule(scheduler.alphas_cumprod, prediction_type)


def ddpm_schedule(alphas_cumprod_t: Tensor, prediction_type: Literal["epsilon", "v_prediction"]) -> NoiseSchedule:
    """The tables of Ho et al. 2020 from the share of signal variance at each training step, float32.

    Square roots are computed in float32, as in diffusers' `add_noise`, so the tables have exactly its values.
    """
    alphas_t = alphas_cumprod_t.float().clamp(min=0)
    return NoiseSchedule(
        timestep_t=torch.arange(len(alphas_t), dtype=torch.float64),
        signal_t=alphas_t.sqrt().double(),
        sigma_t=(1 - alphas_t).sqrt().double(),
        prediction_type=prediction_type,
    )


def sampling_defaults(schedule: NoiseSchedule, size_px: int) -> SamplingDefaults:
    """Default sampler settings of a Stable Diffusion model.

    Karras' steps are distributed between the model's smallest and largest noise-to-signal ratio. If the last training
    step has no signal (Lin et al. 2024), that ratio is infinite and half of the steps would be spent on pure noise. The
    defaults for such a model are a sampler with new noise at every step, which corrects errors of earlier steps
    (decision 0027), and less guidance, because guidance acts more strongly and colours saturate (Lin et al. 2024, 3.4).
    """
    ends_in_noise = float(schedule.signal_t[-1]) ** 2 < 1e-6
    return SamplingDefaults(
        sampler="euler_a" if ends_in_noise else "dpmpp_2m_karras",
        num_steps=25,
        guidance_scale=4.0 if ends_in_noise else 7.5,
        size_px=size_px,
        exact_sampler="ddim",
    )
