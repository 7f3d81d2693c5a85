"""Inject LoRA layers that learn into a model's parts; save and load their weights.

In: an opened model with its parts placed, and which layers are to learn. Out: an `Adapter`: the learning parameters,
float32 whatever the base's dtype, under the keys of adapter files. Finished adapters are loaded by `stack.LoraStack`.
LoRA: Hu et al. 2021, W x + (alpha / rank) B A x; B starts at zero.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn

from loraloom.config.run import LoraConfig
from loraloom.protocols.model import DiffusionModel, LoraPreset, Part
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.rng import derive_seed
from loraloom.utils.sharded import like, on_main

ADAPTER_NAME = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """LoRA layers that learn, injected into a model.

    Attributes:
        name: Name inside peft.
        modules: For each part the names of the modules that carry a layer, sorted.
        parameters: Key of diffusers (`unet.….to_q.lora_A.weight`) to float32 parameter, in a fixed order.
        parts: Key of diffusers to part.
        roles: Part to its role.
    """

    name: str
    modules: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, nn.Parameter]
    parts: Mapping[str, str]
    roles: Mapping[str, str]

    @property
    def num_parameters(self) -> int:
        """Number of values that learn."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def state(self) -> dict[str, Tensor]:
        """Copies of all weights on the CPU, float32; of weights that are split over ranks on rank 0 only."""
        return {
            key: on_main(parameter.detach()).to("cpu", torch.float32, copy=True)
            for key, parameter in self.parameters.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite all weights.

        Raises:
            UserError: A key is missing, unknown or of another shape.
        """
        missing, unknown = self.parameters.keys() - tensors.keys(), tensors.keys() - self.parameters.keys()
        if missing or unknown:
            raise UserError(
                "the adapter's layers are not this run's",
                got=f"{len(missing)} missing, {len(unknown)} unknown (such as {min(missing | unknown)})",
                fix="use the model, lora.target and lora.text_encoder that the adapter was trained with",
            )
        for key, parameter in self.parameters.items():
            if parameter.shape != tensors[key].shape:
                raise UserError(
                    f"{key} has another shape", got=tuple(tensors[key].shape), expected=tuple(parameter.shape)
                )
            parameter.data.copy_(like(parameter, tensors[key]))


def match_modules(module: nn.Module, preset: LoraPreset) -> list[str]:
    """Names of the modules that a preset means, sorted."""
    pattern = re.compile(preset.pattern)
    return sorted(
        name
        for name, child in module.named_modules()
        if type(child).__name__ in preset.kinds and pattern.fullmatch(name)
    )


def resolve_target(target: str, presets: Mapping[str, LoraPreset]) -> LoraPreset:
    """A preset by name, or a regular expression searched in the names of linear and convolution layers.

    Raises:
        UserError: Neither a preset nor a valid expression.
    """
    if target in presets:
        return presets[target]
    try:
        re.compile(target)
    except re.error as error:
        fix = did_you_mean(target, presets)
        raise UserError(f"lora.target is no preset and no regular expression ({error})", got=target, fix=fix) from None
    return LoraPreset(f".*(?:{target}).*", ("Linear", "Conv2d"))


def attach_new(model: DiffusionModel, config: LoraConfig, seed: int) -> Adapter:
    """Inject fresh LoRA layers as the settings ask; the first weights are decided by `seed`.

    Raises:
        UserError: No layer matches, or one that cannot carry LoRA.
    """
    part = model.info.denoiser
    module = model.modules.skeleton(part.name)  # the module itself may hold its layers in low bits
    preset = resolve_target(config.target, part.lora_targets)
    chosen = {part.name: match_modules(module, preset)}
    if not chosen[part.name]:
        linear = match_modules(module, LoraPreset(r".*", ("Linear", "Conv2d")))
        raise UserError(
            "lora.target matches no layer",
            got=config.target,
            expected=f"one of {', '.join(part.lora_targets)}, or a regular expression on names such as {linear[0]}",
            fix=did_you_mean(config.target, part.lora_targets),
        )
    check_allowed(part, chosen[part.name], config.target)
    if config.text_encoder:
        for encoder in learning_text_encoders(model):
            first = next(iter(encoder.lora_targets.values()))
            chosen[encoder.name] = match_modules(model.modules.get(encoder.name), first)
            assert chosen[encoder.name], f"the family's LoRA target of {encoder.name} matches nothing"
    for name, names in chosen.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "lora", name))
            _inject(
                model.modules.get(name), names, ADAPTER_NAME, config.rank, config.alpha or config.rank, config.dropout
            )
    return collect(model, ADAPTER_NAME, list(chosen))


def check_allowed(part: Part, names: Sequence[str], target: str) -> None:
    """Raise `UserError` where a target matches layers that cannot carry LoRA."""
    barred = {name: why for name in names if (why := part.why_excluded(name))}
    if barred:
        name, why = next(iter(barred.items()))
        raise UserError(
            f"lora.target matches {len(barred)} layers that cannot carry LoRA: {name} ({why})",
            got=target,
            fix=f"narrow the expression, or use one of {', '.join(part.lora_targets)}",
        )


def learning_text_encoders(model: DiffusionModel) -> list[Part]:
    """The text encoders that learn where `lora.text_encoder` is on.

    Raises:
        UserError: The family has none.
    """
    found = [part for part in model.info.text_encoders if part.lora_targets]
    if not found:
        raise UserError(
            "lora.text_encoder is on, but the text encoders of this model do not learn",
            got=model.info.family,
            fix="leave it off",
        )
    return found


def collect(model: DiffusionModel, name: str, parts: Sequence[str]) -> Adapter:
    """The `Adapter` that was injected under a name of peft; its parameters become float32."""
    modules: dict[str, tuple[str, ...]] = {}
    parameters: dict[str, nn.Parameter] = {}
    owner: dict[str, str] = {}
    for part in parts:
        found = sorted((key, layer) for key, layer in lora_layers(model.modules.get(part)) if name in layer.lora_A)
        modules[part] = tuple(key for key, _ in found)
        for key, layer in found:
            for letter, holder in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
                parameter: Any = holder[name].weight
                parameter.data = parameter.data.float()
                stem = f"{model.lora_format.component(part)}.{model.lora_format.diffusers_name(part, key)}"
                parameters[f"{stem}.{letter}.weight"] = parameter
                owner[f"{stem}.{letter}.weight"] = part
    return Adapter(
        name=name,
        modules=modules,
        parameters=parameters,
        parts=owner,
        roles={part: model.info.part(part).role for part in modules},
    )


def lora_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """All layers of peft below a module with their names."""
    for key, child in module.named_modules():
        if isinstance(child, PeftLayer):
            yield key, child


def base_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear and convolution layers of the base with their names, those below a LoRA layer under the LoRA layer's name."""
    wrapped = {name: layer.get_base_layer() for name, layer in lora_layers(module)}
    inner = tuple(f"{name}." for name in wrapped)
    for name, child in module.named_modules():
        if name in wrapped:
            yield name, wrapped[name]
        elif isinstance(child, (nn.Linear, nn.Conv2d)) and not name.startswith(inner):
            yield name, child


def _inject(
    module: nn.Module, names: Sequence[str], adapter_name: str, rank: int, alpha: float, dropout: float
) -> None:
    config = PeftConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - peft divides, a float is as good
        lora_dropout=dropout,
        target_modules=list(names),
        init_lora_weights=True,
    )
    inject_adapter_in_model(config, module, adapter_name)
