"""The optimizer, its learning rate, and updates that are skipped when a gradient is not finite.

In: an adapter with gradients. Out: moved weights, or untouched ones when a gradient is not finite. The learning rate is
a function of the step alone, so a resume cannot shift it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.config.run import OptimConfig
from loraloom.lora.inject import Adapter
from loraloom.train.muon import Muon, by_kind
from loraloom.utils.errors import UserError
from loraloom.utils.sharded import is_sharded, like, on_main, whole
from loraloom.utils.untrusted import check_range


def learning_rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """What the peak learning rate is multiplied by at a step counted from 0.

    Linear warm-up over `warmup_steps` (the first step already moves), then constant, a half cosine to 0, or a line to 0.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    match config.scheduler:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        case "linear":
            return max(0.0, 1 - share)


def make_optimizer(adapter: Adapter, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over an adapter's parameters, one group a part; with Muon one more for the part's matrices.

    Raises:
        UserError: The optimizer's package is not installed.
    """
    groups: list[dict[str, Any]] = []
    for part in adapter.modules:
        rate = config.learning_rate
        if adapter.roles[part] == "text_encoder" and config.text_encoder_learning_rate is not None:
            rate = config.text_encoder_learning_rate
        own = {key: parameter for key, parameter in adapter.parameters.items() if adapter.parts[key] == part}
        split = by_kind(own) if config.optimizer == "muon" else [{"params": [*own.values()]}]
        groups += [group | {"lr": rate, "peak_lr": rate} for group in split]
    common: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, fused=True, **common)
        case "muon":
            return Muon(groups, fused=True, **common)
        case "adamw8bit":
            try:
                from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
            except ImportError:
                raise _missing("adamw8bit", "bitsandbytes") from None
            return AdamW8bit(groups, **common)
        case "prodigy":
            try:
                from prodigyopt import Prodigy  # pyright: ignore[reportMissingImports]
            except ImportError:
                raise _missing("prodigy", "prodigyopt") from None
            return Prodigy(groups, safeguard_warmup=True, use_bias_correction=True, **common)


def _missing(name: str, package: str) -> UserError:
    return UserError(f"optim.optimizer={name} needs {package}", fix="install it: uv sync --extra optim")


@dataclass(slots=True)
class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): small gradients would round to zero without it.

    At the start, and now and then later, the scale is too high and gradients overflow: normal, each halves it. Below 1 it
    has collapsed: gradients overflow although they are not enlarged.
    """

    enabled: bool
    value: float = 65536.0
    good_steps: int = 0

    @property
    def can_overflow(self) -> bool:
        """Whether gradients that are not finite may be the scale's fault alone."""
        return self.enabled and self.value >= 1.0

    def adjust(self, finite: bool) -> None:
        """Halve after an overflow, double after 2,000 good steps."""
        if not finite:
            self.value, self.good_steps = max(self.value / 2, 2.0**-14), 0
            return
        self.good_steps += 1
        if self.good_steps == 2000:
            self.value, self.good_steps = self.value * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """The scale and its count."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a scale and its count.

        Raises:
            UserError: They are not numbers in their ranges.
        """
        check_range(state["value"], "loss scale", 0, 1e300, whole=False)
        check_range(state["good_steps"], "good_steps of the loss scale", 0, 2000)
        self.value, self.good_steps = state["value"], state["good_steps"]


@dataclass(slots=True, kw_only=True)
class Updater:
    """Applies gradients.

    Attributes:
        optimizer: Updates the weights.
        parameters: The adapter's parameters, in its order.
        config: Settings of clipping and of the learning rate's schedule.
        max_steps: Length of the schedule in steps.
        loss_scale: Dynamic loss scale; it does nothing unless the precision is fp16.
    """

    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    config: OptimConfig
    max_steps: int
    loss_scale: LossScale

    def set_learning_rate(self, step: int) -> float:
        """Set every group's rate for a step counted from 0; returns the first group's."""
        factor = learning_rate_factor(step, self.config, self.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def apply(self, loss_is_finite: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and step; nothing moves when the loss or a gradient is not finite.

        With fused AdamW the decision stays on the device and costs no wait; other optimizers ask once a step.

        Args:
            loss_is_finite: () bool, agreed on by all processes.

        Returns:
            The gradient norm before clipping () float32, and whether the weights moved () bool.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.loss_scale.enabled:
            torch._foreach_div_(gradients, self.loss_scale.value)  # pyright: ignore[reportPrivateImportUsage]
        norm = whole(nn.utils.get_total_norm(gradients))
        finite = torch.isfinite(norm) & loss_is_finite
        if self.config.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.max_grad_norm, norm)
        if self.config.optimizer == "adamw":
            optimizer: Any = self.optimizer
            optimizer.found_inf, optimizer.grad_scale = (~finite).float(), None  # torch's protocol for fused steps
            optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # A loss that is not finite was so before it was scaled: a lower scale would not have helped.
        if self.loss_scale.enabled and bool(loss_is_finite):
            self.loss_scale.adjust(bool(finite))
        return norm, finite

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state; the learning rate is a function of the step, the loss scale a component of its own."""
        tensors, rest = optimizer_tensors(self.optimizer)
        return {**tensors, **rest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with an optimizer's state, exactly."""
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        restore_optimizer(self.optimizer, tensors, state)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors for safetensors and the rest for JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = on_main(value)
            else:
                numbers[f"{index}.{name}"] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    for number, group in enumerate(groups):
        for key in [key for key, value in group.items() if isinstance(value, Tensor)]:
            tensors[f"group.{number}.{key}"] = group.pop(key)
    return tensors, {"numbers": numbers, "groups": groups}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Put back what `optimizer_tensors` took out, exactly."""
    own = optimizer.state_dict()
    groups = [
        {**group, **{key: value for key, value in saved.items() if key in group}}
        for group, saved in zip(own["param_groups"], rest["groups"], strict=True)
    ]
    state: dict[int, dict[str, Any]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in {**tensors, **rest["numbers"]}.items():
        if key.startswith("group."):
            _, number, name = key.split(".", 2)
            groups[int(number)][name] = value
        else:
            index, name = key.split(".", 1)
            own_parameter = parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == own_parameter.shape and is_sharded(own_parameter):
                value = like(own_parameter, value)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            # Files are contiguous; weights may be channels_last, and fused steps want both laid out alike.
            same = isinstance(value, Tensor) and value.shape == parameter.shape and not is_sharded(parameter)
            if same and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def weight_sums(adapter: Adapter) -> Tensor:
    """(n, 2) float64 sum and sum of absolute values of each weight that decides whether anything changed.

    Of LoRA's pairs that is B, which starts at zero: while it stays there, whatever A does changes nothing.
    """
    chosen = {key: value for key, value in adapter.parameters.items() if ".lora_B." in key} or adapter.parameters
    with torch.no_grad():
        rows: list[Tensor] = []
        for parameter in chosen.values():
            values = whole(parameter).cpu() if is_sharded(parameter) else parameter
            rows.append(torch.stack([values.sum(dtype=torch.float64), _abs_sum(values)]))
    return torch.stack(rows).cpu()


def _abs_sum(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, 1, dtype=torch.float64)


class Ema:
    """An exponential moving average of an adapter's weights, float32, on the weights' device.

    The decay rises with the step, min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._keys = list(parameters)
        self._parameters = list(parameters.values())
        self._decay = decay
        self.shadow = [parameter.detach().clone() for parameter in self._parameters]

    def update(self, step: int) -> None:
        """Take in the weights after a step counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self._parameters], 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def swap(self) -> None:
        """Exchange average and weights; twice is nothing."""
        for parameter, shadow in zip(self._parameters, self.shadow, strict=True):
            kept = parameter.detach().clone()
            parameter.data.copy_(shadow)
            shadow.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The average of each weight by its key."""
        return {key: on_main(shadow) for key, shadow in zip(self._keys, self.shadow, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with an average.

        Raises:
            UserError: A key is missing or unknown, or an average has another shape than its weight.
        """
        if state.keys() != set(self._keys):
            raise UserError("the average is of other layers than this run's", got=f"{len(state)} of {len(self._keys)}")
        for key, shadow in zip(self._keys, self.shadow, strict=True):
            if state[key].shape != shadow.shape:
                raise UserError(f"the average of {key} has another shape", got=tuple(state[key].shape))
            shadow.copy_(like(shadow, state[key]))
