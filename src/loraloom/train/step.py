"""One optimizer step: batches in, updated weights and a few numbers out; and the validation loss.

In: a `TrainState` and a step. Out: `StepResult` on the device; nothing here waits for the device.

Noise and timesteps are sampled here from the seeds of each image. The noise of training comes from a generator on the device
that trains, so that it is not copied there. Timesteps, one number an image, and the noise of validation come from the
CPU's, so that every machine trains on the same timesteps and validates with the same noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loraloom.data.batches import BatchMaker
from loraloom.data.bucket_sampler import Pass, Step
from loraloom.diffusion.balance import BUCKETS
from loraloom.diffusion.objective import Objective, TimestepSampling, draw_noise
from loraloom.protocols.data import Batch
from loraloom.train.rank_figures import Stopwatch
from loraloom.train.state import TrainState
from loraloom.utils.rng import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The numbers of a step.

    Attributes:
        epoch: Epoch of the step's images, from 0.
        loss: () float32, weighted mean over the step's images of all devices; the noise balance is left out of it.
        grad_norm: () float32 before clipping.
        finite: () bool; False when the update was skipped.
        stop_votes: () float32: how many processes were asked to stop.
        num_images: Images learned from over all devices, repeats not counted.
        ids: Ids of this device's images.
        busy: Time that this device computed, without waiting for others.
        learning_rate: Learning rate of the optimizer's first group.
        loss_scale: Loss scale that the gradients were computed with; 1.0 without scaling.
        can_overflow: Whether non-finite gradients may be caused by that scale alone.
    """

    epoch: int
    loss: Tensor
    grad_norm: Tensor
    finite: Tensor
    stop_votes: Tensor
    num_images: int
    ids: tuple[str, ...]
    busy: Stopwatch
    learning_rate: float
    loss_scale: float = 1.0
    can_overflow: bool = False


def train_step(train_state: TrainState, step: int, *, stop: bool = False) -> StepResult:
    """Learn from the images of a step counted from 0.

    The loss is the sum of the images' losses divided by the slots of a whole step: a tail counts for what it holds.
    """
    busy = Stopwatch(train_state.runtime.device)
    runtime, updater, balance = train_state.runtime, train_state.updater, train_state.balance
    # Dropout is the only consumer of global random numbers; seeded by position, a resume repeats it exactly.
    torch.manual_seed(derive_seed(train_state.seed, step, runtime.rank, "global"))
    learning_rate = updater.set_learning_rate(step)
    epoch, passes = train_state.epochs.step(step)
    plan = train_state.epochs.plan
    total = torch.zeros((), device=runtime.device)
    tally = torch.zeros(2 * BUCKETS if balance else 0, device=runtime.device)
    ids: list[str] = []
    for share in micro_batches(train_state, passes):
        batch = to_device(train_state.batches.make(epoch, share), train_state)
        noise_bchw, timesteps_b = noise_and_timesteps(batch, train_state.objective, sampling_for(train_state, batch))
        losses_b = batch_losses(train_state, batch, noise_bchw, timesteps_b)
        loss = (losses_b * batch.weights_b).sum() / plan.step_size
        total += loss.detach()
        if balance:
            tally += balance.tally(losses_b, timesteps_b, batch.weights_b)
            weights_b = balance.weights(timesteps_b) * batch.weights_b
            loss = (losses_b * weights_b).sum() / plan.step_size
        (loss * updater.loss_scale.value if updater.loss_scale.enabled else loss).backward()
        ids += batch.ids
    num_images = sum(slot.weight > 0 for forward in passes for slot in forward)
    weight = sum(slot.weight for forward in passes for slot in forward)
    votes = torch.full((), float(stop), device=runtime.device)  # filled there: a copy would wait for the device
    numbers = torch.cat([torch.stack([total, votes]), tally])
    busy.stop()
    numbers = runtime.sum_gradients(updater.parameters, numbers)
    scale, can_overflow = updater.loss_scale.value, updater.loss_scale.can_overflow
    grad_norm, finite = updater.apply(torch.isfinite(numbers[0]))
    if balance:
        balance.update(numbers[2:], finite)
    if train_state.ema:
        train_state.ema.update(step)
    mean_loss = numbers[0] * (plan.step_size / weight)
    return StepResult(
        epoch=epoch,
        loss=mean_loss,
        grad_norm=grad_norm,
        finite=finite,
        stop_votes=numbers[1],
        num_images=num_images,
        ids=tuple(ids),
        busy=busy,
        learning_rate=learning_rate,
        loss_scale=scale if updater.loss_scale.enabled else 1.0,
        can_overflow=can_overflow,
    )


def micro_batches(train_state: TrainState, passes: Step) -> Iterator[Pass]:
    """The micro-batches of a step that this process computes; without repeats of weight zero where those are not required."""
    runtime, plan = train_state.runtime, train_state.epochs.plan
    for forward in passes:
        for share in plan.micro_batches(forward, runtime.rank, runtime.num_devices):
            kept = tuple(slot for slot in share if slot.weight > 0) if train_state.ragged else share
            if kept:
                yield kept


def sampling_for(train_state: TrainState, batch: Batch) -> TimestepSampling:
    """The timestep sampling for images of the batch's size: noise levels are those that the model's samplers visit."""
    info = train_state.model.info
    height, width = (side * info.vae_scale_factor for side in batch.latents_bchw.shape[2:])
    return train_state.timestep_sampling.for_size(info.schedule, height, width)


def noise_and_timesteps(batch: Batch, objective: Objective, sampling: TimestepSampling) -> tuple[Tensor, Tensor]:
    """Noise (b, c, h, w) float32 and timesteps (b,) int64 of a batch's images, on the device of the latents.

    They depend on each image's seeds alone, not on its neighbours in the batch.
    """
    latents_bchw, offset = batch.latents_bchw, objective.noise_offset
    shape, device = latents_bchw.shape[1:], latents_bchw.device
    noise_bchw = torch.stack([draw_noise(shape, offset, *parts, device=device) for parts in batch.rng_parts])
    timesteps = [sampling.draw(objective.num_timesteps, *parts) for parts in batch.rng_parts]
    return noise_bchw, send(torch.tensor(timesteps), device)


def batch_losses(train_state: TrainState, batch: Batch, noise_bchw: Tensor, timesteps_b: Tensor) -> Tensor:
    """(b,) float32 loss of each image."""
    objective = train_state.objective
    if train_state.channels_last:
        noise_bchw = noise_bchw.contiguous(memory_format=torch.channels_last)
    noisy_bchw = objective.add_noise(batch.latents_bchw, noise_bchw, timesteps_b)
    target_bchw = objective.target(batch.latents_bchw, noise_bchw, timesteps_b)
    model: Any = train_state.model
    given = (noisy_bchw, objective.timestep_t[timesteps_b], batch.conditioning)
    more_b: Tensor | None = None
    with train_state.runtime.autocast():
        if hasattr(model, "predict_and_loss"):
            prediction_bchw, more_b = model.predict_and_loss(*given, clean_bchw=batch.latents_bchw, steps_b=timesteps_b)
        else:
            prediction_bchw = model.predict(*given)
    losses_b = objective.loss(prediction_bchw, target_bchw, timesteps_b, batch.latent_weights_bhw)
    return losses_b if more_b is None else losses_b + more_b


def send(tensor: Tensor, device: torch.device, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """The tensor on a device, without waiting for it: only pinned memory travels so."""
    source = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return source.to(device, non_blocking=True, memory_format=layout)


def to_device(batch: Batch, train_state: TrainState) -> Batch:
    """The batch on the device that trains."""
    device = train_state.runtime.device
    layout = torch.channels_last if train_state.channels_last else torch.contiguous_format
    weights = batch.latent_weights_bhw
    return Batch(
        ids=batch.ids,
        rng_parts=batch.rng_parts,
        latents_bchw=send(batch.latents_bchw, device, layout),
        conditioning={name: send(tensor, device) for name, tensor in batch.conditioning.items()},
        weights_b=send(batch.weights_b, device),
        latent_weights_bhw=send(weights, device) if weights is not None else None,
    )


@torch.no_grad()
def validation_loss(train_state: TrainState, held_out: BatchMaker, timesteps: tuple[int, ...]) -> float | None:
    """Mean loss of the held-out images at fixed timesteps and noise; None without held-out images.

    Latents are the distribution's mean and captions are never dropped, so the number depends on the weights alone.
    Each process takes its share; an image's timesteps go together. All compute equally often, the last image again where a
    share is shorter: split weights are gathered by all of them together.
    """
    count = len(held_out.examples)
    if not count:
        return None
    runtime = train_state.runtime
    total = torch.zeros(2, device=runtime.device)
    for first in range(0, count, runtime.num_devices):
        index = first + runtime.rank
        batch = to_device(held_out.fixed(min(index, count - 1), timesteps), train_state)
        shape = batch.latents_bchw.shape[1:]
        noise_bchw = torch.stack([draw_noise(shape, 0.0, *parts) for parts in batch.rng_parts])
        noise_bchw, timesteps_b = send(noise_bchw, runtime.device), send(torch.tensor(timesteps), runtime.device)
        losses_b = batch_losses(train_state, batch, noise_bchw, timesteps_b)
        total += torch.stack([losses_b.sum(), torch.ones_like(losses_b).sum()]) * (index < count)
    total = runtime.sum_numbers(total)
    return float(total[0] / total[1])
