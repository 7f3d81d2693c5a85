"""Whether a finished run learned anything that can be used, decided before anything is exported.

In: a `Run` after its last step. Out: nothing and the latents of a trial, or a `UserError`: no weight moved, the weights
changed nothing, or the adapter itself generates NaN. So a fault of the adapter is never reported as a fault of an export.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.lora.files import AdapterFile
from loraloom.lora.inject import lora_layers
from loraloom.lora.stack import LoraStack
from loraloom.models.low_bits import plain_weight
from loraloom.protocols.generation import ImageRequest
from loraloom.train.loop import calmer, standing
from loraloom.train.optim import weight_sums
from loraloom.train.state import Run
from loraloom.utils.errors import UserError

MAX_SHARE = 100.0
"""Norm of all updates over the norm of all weights that they are added to. Useful adapters stay far below 1."""

NEAR = 1e-2
"""Difference of latents below which it is asked whether the adapter has any effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Latents of one request with the adapter and without, float32 on the CPU.

    Attributes:
        request: What was asked for.
        ours_bchw: (1, c, h, w) final latents with the adapter.
        base_bchw: (1, c, h, w) final latents of the base, from a fresh pipeline.
    """

    request: ImageRequest
    ours_bchw: Tensor
    base_bchw: Tensor


def refuse_unmoved(run: Run, step: int) -> None:
    """Raise `UserError` when no weight has changed since the first step: such an adapter generates what the base generates.

    Whatever the reason: every update was skipped, the learning rate is too small for float32 (its schedule never reaches
    0 at a step), or no gradient arrives.
    """
    if not torch.equal(run.sums_at_start, weight_sums(run.train_state.adapter)):
        return
    got, fix = f"a peak learning rate of {run.config.optim.learning_rate:g}", "raise optim.learning_rate"
    if run.counts.skipped:
        got = f"{run.counts.skipped} of {step} updates skipped because they were not finite"
        fix = calmer(run) + (", or look at the images named above" if run.counts.skipped == 1 else "")
        if run.train_state.updater.loss_scale.can_overflow:
            fix = "add --max-steps: fp16's loss scale is still coming down, and the same command resumes; or use bf16"
    elif run.counts.largest_norm == 0:
        got = "a gradient norm of 0 at every step"
        fix = "check objective.class_weights and lora.target: what is learned does not depend on these layers"
    raise UserError(
        f"nothing was learned in {step} steps: no weight has moved, and nothing is exported",
        got=got,
        fix=f"{fix}; {standing(run)}",
    )


def refuse_broken(run: Run, step: int) -> None:
    """Raise `UserError` for weights that are not finite, that are absurdly large, or that change nothing.

    A LoRA's update is compared with the weight that it is added to, both in float32: an update that rounding swallows
    everywhere generates what the base generates.
    """
    adapter = run.train_state.adapter
    with torch.no_grad():
        lost = [key for key, parameter in adapter.parameters.items() if not bool(parameter.isfinite().all())]
    if lost:
        raise UserError(
            f"the weights became NaN or infinite in {step} steps, and nothing is exported",
            got=f"{len(lost)} of {len(adapter.parameters)} tensors, such as {lost[0]}",
            fix=_remedy(run),
        )
    if run.config.train.method == "full":
        return
    changed, update, base = _sizes(run)
    if not update <= MAX_SHARE * base:
        raise UserError(
            f"the adapter is absurdly strong after {step} steps, and nothing is exported",
            got=f"updates of norm {update:.1e} on weights of norm {base:.1e}",
            expected=f"at most {MAX_SHARE:g} times",
            fix=_remedy(run),
        )
    if not changed:
        raise _without_effect(run, step, "its updates vanish when they are added to the base's weights in float32")


def run_trial(run: Run, file: AdapterFile, step: int) -> Trial:
    """Generate the first caption, cut to one window, with an adapter file and without, in float32 on the CPU.

    Base and adapter are read from disk again: the trained ones may be rounded to half precision or compiled. The parts of
    the run's model are dropped.

    Raises:
        UserError: Base or adapter generates NaN, or both generate the same.
    """
    model, encoder = run.train_state.model, run.train_state.encoder
    tokenizer, defaults = encoder.text.tokenizer, model.info.defaults
    prompt = tokenizer.detokenize(tokenizer.tokenize(run.train_state.batches.examples[0].caption)[:40])
    size = min(defaults.size_px, 256)
    request = ImageRequest(
        prompt=prompt,
        negative_prompt="",
        seed=0,
        num_steps=4,
        guidance_scale=5.0,
        sampler=defaults.exact_sampler,
        width=size,
        height=size,
    )
    noise_bchw = first_noise(model, request)
    ours_bchw = _latents(run, request, noise_bchw, file)
    base_bchw = model.reference_latents(None, request, noise_bchw)
    if not bool(base_bchw.isfinite().all()):
        raise UserError(
            "the base model generates NaN without any adapter, and nothing is exported",
            got=model.info.source.location,
            fix="use another base model or another copy of it",
        )
    if not bool(ours_bchw.isfinite().all()):
        raise UserError(
            f"the adapter itself generates NaN after {step} steps, and nothing is exported",
            got=f"{run.counts.skipped} of {step} updates were skipped" if run.counts.skipped else None,
            fix=_remedy(run),
        )
    near = float((ours_bchw - base_bchw).abs().max()) < NEAR
    # The fresh pipeline rounds in its own way: only our own latents without the adapter distinguish "equal" from "nearly".
    if near and torch.equal(ours_bchw, _latents(run, request, noise_bchw, None)):
        raise _without_effect(run, step, "it generates what the base generates, to the last bit")
    return Trial(request=request, ours_bchw=ours_bchw, base_bchw=base_bchw)


def _latents(run: Run, request: ImageRequest, noise_bchw: Tensor, file: AdapterFile | None) -> Tensor:
    """Final latents with the base read anew and an adapter file on it."""
    model, encoder = run.train_state.model, run.train_state.encoder
    parts = [part.name for part in model.info.parts if part.role != "vae"]
    for part in parts:
        model.modules.drop(part)
        model.modules.place(part, torch.device("cpu"), torch.float32)
    if file:
        LoraStack(model).add("verify", file)
    try:
        return denoise(model, encoder.encode, [request], noise_bchw=noise_bchw).cpu()
    finally:
        for part in parts:
            model.modules.drop(part)


@torch.no_grad()
def _sizes(run: Run) -> tuple[bool, float, float]:
    """Whether any layer's weight changes when its update is added in float32; norm of all updates; norm of all weights."""
    changed, update, base = False, 0.0, 0.0
    for part in run.train_state.adapter.modules:
        for _, layer in lora_layers(run.train_state.model.modules.get(part)):
            delta = layer.get_delta_weight(run.train_state.adapter.name).float()
            own = plain_weight(layer.get_base_layer()).float().to(delta.device)  # a swapped block lies on the CPU
            update += float(delta.double().square().sum())
            base += float(own.double().square().sum())
            # Beside a weight of exactly 0 any number counts, so it must be one that another weight would feel.
            least = torch.finfo(torch.float32).eps * own.abs().max()
            moved = torch.where(own == 0, delta.abs() > least, own + delta != own)
            changed = changed or bool(moved.any())
    return changed, math.sqrt(update), math.sqrt(base)


def _without_effect(run: Run, step: int, why: str) -> UserError:
    return UserError(
        f"nothing was learned in {step} steps: the adapter changes nothing ({why}), and nothing is exported",
        got=f"a peak learning rate of {run.config.optim.learning_rate:g}",
        fix=f"raise optim.learning_rate; {standing(run)}",
    )


def _remedy(run: Run) -> str:
    rate = f"optim.learning_rate is {run.config.optim.learning_rate:g}"
    best = f"; lowest validation loss at step {run.best.step}" if run.best.step else ""
    return f"{rate}: {calmer(run)}, and start again in another --out; {standing(run)}{best}"
