"""The forward process and the shift of a flow-matching scheduler config (Esser et al. 2024).

In: a scheduler config, checked. Out: a `NoiseSchedule`, and how far an image's times are shifted. A shift depends on nothing,
or on the number of image tokens: mu is a line through two points, and times move as by a shift of exp(mu) (diffusers'
`time_shift`, Black Forest Labs' `get_lin_function`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from loraloom.extensions.families._diffusers.limits import (
    Rule,
    check_config,
    flag,
    nothing,
    number,
    one_of,
    or_null,
    whole,
)
from loraloom.protocols.model import NoiseSchedule
from loraloom.utils.errors import UserError

WHERE = "scheduler/scheduler_config.json"


def no(value: Any, where: str) -> None:
    """False or null: a way to place steps that is not known here."""
    if value not in (None, False):
        raise UserError(where, got=value, expected="false", fix="use the scheduler that the model was published with")


SCHEDULE: Mapping[str, Rule] = {
    "_class_name": one_of("FlowMatchEulerDiscreteScheduler"),
    "num_train_timesteps": whole(1, 100_000),
    "shift": number(1e-3, 1e3),
    "use_dynamic_shifting": flag,
    "base_shift": or_null(number(-20, 20)),
    "max_shift": or_null(number(-20, 20)),
    "base_image_seq_len": or_null(whole(1, 1 << 24)),
    "max_image_seq_len": or_null(whole(1, 1 << 24)),
    "time_shift_type": one_of("exponential", "linear"),
    "shift_terminal": nothing,
    **dict.fromkeys(
        ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling"), no
    ),
}


def check_schedule(config: Mapping[str, Any], prediction_type: str) -> None:
    """Raise `UserError` for a scheduler config that is not a flow's, or a prediction type that a user set beside it."""
    check_config(config, SCHEDULE, WHERE)
    first, last = (_value(config, key) for key in ("base_image_seq_len", "max_image_seq_len"))
    if first >= last:
        raise UserError(f"{WHERE}: base_image_seq_len", got=first, expected=f"less than max_image_seq_len ({last})")
    if prediction_type != "auto":
        raise UserError(
            "this model is trained by flow matching",
            got=f"prediction type {prediction_type}",
            expected="auto",
            fix="leave the prediction type out",
        )


_DEFAULTS: Mapping[str, float] = {
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def _value(config: Mapping[str, Any], key: str) -> float:
    found = config.get(key)
    return _DEFAULTS[key] if found is None else found


def mu_of(config: Mapping[str, Any], num_tokens: int) -> float:
    """The line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift)."""
    first, last = _value(config, "base_image_seq_len"), _value(config, "max_image_seq_len")
    low, high = _value(config, "base_shift"), _value(config, "max_shift")
    return low + (high - low) * (num_tokens - first) / (last - first)


def shift_of(config: Mapping[str, Any], mu: float) -> float:
    """The shift of Esser et al. 2024, eq. 23, that the scheduler makes of mu; its fixed one where it does not shift by size."""
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def flow_schedule(
    config: Mapping[str, Any], shift: Callable[[int, int], float], *, steps: int | None = None
) -> NoiseSchedule:
    """Times k / T for k = 1 .. T, unshifted: x_t = (1 - t) x_0 + t noise, and the denoiser is given T t.

    Args:
        config: The scheduler's config.
        shift: See `NoiseSchedule.shift`.
        steps: See `NoiseSchedule.shift_steps`.
    """
    last = int(config.get("num_train_timesteps", 1000))
    sigma_t = torch.arange(1, last + 1, dtype=torch.float64) / last
    return NoiseSchedule(
        timestep_t=last * sigma_t,
        signal_t=1 - sigma_t,
        sigma_t=sigma_t,
        prediction_type="flow",
        shift=shift,
        shift_steps=steps,
    )
