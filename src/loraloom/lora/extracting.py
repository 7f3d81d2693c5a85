"""A LoRA out of a fine-tuned model: the difference to its base, truncated to a rank layer by layer.

In: two opened models of one family and size. Out: layers by place with what each lost, and what a LoRA cannot hold: changed
norms, biases, embeddings and other parts. One part of each model is in memory at a time, float32.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from loraloom.lora.inject import base_layers
from loraloom.lora.low_rank import RankLimit, Truncated, approximate
from loraloom.protocols.model import DiffusionModel, Part
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress


@dataclass(slots=True, kw_only=True)
class Extracted:
    """What was found.

    Attributes:
        layers: The layers that differ, truncated.
        equal: Number of layers that do not differ.
        rounded: Number of layers that differ only by rounding to a half-precision dtype, which are left out.
        not_held: Names of weights that differ and that a LoRA cannot hold, with their part.
    """

    layers: list[Truncated] = field(default_factory=list[Truncated])
    equal: int = 0
    rounded: int = 0
    not_held: list[str] = field(default_factory=list[str])


def extract(
    base: DiffusionModel, tuned: DiffusionModel, limit: RankLimit, progress: Progress = lambda done, total: None
) -> Extracted:
    """The LoRA that makes the base nearly the tuned model.

    Args:
        base: The model that was fine-tuned.
        tuned: The result.
        limit: The rank or error of each layer.
        progress: Called after each layer of a part.

    Raises:
        UserError: Models of other families or sizes, or models that do not differ.
    """
    if base.info.family != tuned.info.family:
        got = f"{tuned.info.family} and {base.info.family}"
        raise UserError("the two models are of different families", got=got, fix="name the base that was fine-tuned")
    found = Extracted()
    for part in base.info.parts:
        _check_sizes(part.name, base, tuned)
    for part in base.info.parts:
        if base.modules.fingerprint(part.name) == tuned.modules.fingerprint(part.name):
            found.equal += len(base_layers_of(base.modules.skeleton(part.name)))
            continue
        mine, other = base.modules.get(part.name), tuned.modules.get(part.name)
        if part.lora_targets:
            _extract_part(part, mine, other, limit, found, progress)
        else:
            _count_others(part.name, mine, other, set(), found)
        base.modules.drop(part.name)
        tuned.modules.drop(part.name)
    if not found.layers:
        more = f"; {len(found.not_held):,} other weights differ" if found.not_held else ""
        raise UserError(
            f"the two models have the same layers{more}",
            got=f"{found.equal:,} equal layers, {found.rounded:,} that differ by rounding",
            fix="check that --model is the base and the argument the fine-tuned model",
        )
    return found


def base_layers_of(module: nn.Module) -> dict[str, Any]:
    """Linear and convolution layers by name."""
    return dict(base_layers(module))


def _check_sizes(part: str, base: DiffusionModel, tuned: DiffusionModel) -> None:
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in model.modules.skeleton(part).state_dict().items()}
        for model in (base, tuned)
    ]
    for name in shapes[0].keys() | shapes[1].keys():
        mine, other = (one.get(name) for one in shapes)
        if mine != other:
            raise UserError(
                "the two models are of different sizes",
                got=f"{name} of the {part.replace('_', ' ')}: {list(other or ())}",
                expected=f"{list(mine or ())} as in the base",
                fix="name the base that was fine-tuned",
            )


def _extract_part(
    allowed: Part, base: nn.Module, tuned: nn.Module, limit: RankLimit, found: Extracted, progress: Progress
) -> None:
    part, layers, others = allowed.name, base_layers_of(base), base_layers_of(tuned)
    for number, (name, layer) in enumerate(layers.items(), 1):
        own, other = layer.weight.detach().float(), others[name].weight.detach().float()
        if torch.equal(own, other):
            found.equal += 1
        elif allowed.why_excluded(name) is not None:
            found.not_held.append(f"{part}: {name}.weight")
        elif _is_rounding(own, other):
            found.rounded += 1
        else:
            found.layers.append(approximate((part, name), other - own, limit))
        progress(number, len(layers))
    _count_others(part, base, tuned, {f"{name}.weight" for name in layers}, found)


def _count_others(part: str, base: nn.Module, tuned: nn.Module, held: set[str], found: Extracted) -> None:
    """Note every weight that differs beyond rounding and is not in `held`."""
    mine, others = base.state_dict(), tuned.state_dict()
    for name, own in mine.items():
        if name in held or not own.is_floating_point():
            continue
        one, other = own.float(), others[name].float()
        if not torch.equal(one, other) and not _is_rounding(one, other):
            found.not_held.append(f"{part}: {name}")


def _is_rounding(own: Tensor, other: Tensor) -> bool:
    """Whether one is the other in half precision."""
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal(own.to(dtype).float(), other) or torch.equal(other.to(dtype).float(), own):
            return True
    return False
