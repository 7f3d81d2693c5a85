"""One optimizer step: batches in, moved weights and a few numbers out.

In: the step's forward passes. Out: `StepResult` on the device; nothing here waits for the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from loraloom.data.batches import BatchMaker
from loraloom.data.bucket_sampler import EpochCache
from loraloom.diffusion.balance import BUCKETS, NoiseBalance
from loraloom.diffusion.objective import Objective
from loraloom.lora.inject import Adapter
from loraloom.protocols.data import Batch
from loraloom.protocols.model import DiffusionModel
from loraloom.train.components import AdapterWeights, Component
from loraloom.train.distributed import Runtime
from loraloom.train.optim import Ema, Updater
from loraloom.utils.rng import derive_seed


@dataclass(slots=True, kw_only=True)
class TrainState:
    """All that moves or is read during a step."""

    model: DiffusionModel
    adapter: Adapter
    objective: Objective
    updater: Updater
    ema: Ema | None
    batches: BatchMaker
    epochs: EpochCache
    runtime: Runtime
    seed: int
    channels_last: bool = True
    balance: NoiseBalance | None = None
    ragged: bool = False
    """Whether repeats of weight zero are left out: alone and uncompiled, nothing needs batches of one size."""

    def components(self) -> dict[str, Component]:
        """What a checkpoint keeps of it, by name."""
        found: dict[str, Component] = {
            "adapter": AdapterWeights(self.adapter),
            "optimizer": self.updater,
            "loss_scale": self.updater.loss_scale,
        }
        if self.ema:
            found["ema"] = self.ema
        if self.balance:
            found["noise_balance"] = self.balance
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step leaves behind.

    Attributes:
        epoch: Of the images.
        loss: () float32, weighted mean over the step's images of all devices; noise is not balanced in it.
        grad_norm: () float32 before clipping.
        finite: () bool; False when the update was skipped.
        stop_votes: () float32: how many processes were asked to stop.
        num_images: Images learned from over all devices, repeats not counted.
        ids: This device's samples.
        learning_rate: Of the first group.
        loss_scale: That the gradients were computed with; 1.0 without scaling.
        can_overflow: Whether gradients that are not finite may be that scale's fault alone.
    """

    epoch: int
    loss: Tensor
    grad_norm: Tensor
    finite: Tensor
    stop_votes: Tensor
    num_images: int
    ids: tuple[str, ...]
    learning_rate: float
    loss_scale: float = 1.0
    can_overflow: bool = False


def train_step(train_state: TrainState, step: int, *, stop: bool = False) -> StepResult:
    """Learn from the images of a step counted from 0.

    The loss is the sum of the images' losses divided by the slots of a whole step: a tail counts for what it holds.
    """
    runtime, updater, balance = train_state.runtime, train_state.updater, train_state.balance
    # Dropout is the only consumer of global random numbers; seeded by position, a resume repeats it exactly.
    torch.manual_seed(derive_seed(train_state.seed, step, runtime.rank, "global"))
    learning_rate = updater.set_learning_rate(step)
    epoch, passes = train_state.epochs.step(step)
    plan = train_state.epochs.plan
    total = torch.zeros((), device=runtime.device)
    tally = torch.zeros(2 * BUCKETS if balance else 0, device=runtime.device)
    ids: list[str] = []
    for forward in passes:
        share = plan.share(forward, runtime.rank)
        if train_state.ragged:
            share = tuple(slot for slot in share if slot.weight > 0)
        batch = to_device(train_state.batches.make(epoch, share), runtime, train_state.channels_last)
        losses_b = batch_losses(train_state.model, train_state.objective, batch, runtime)
        loss = (losses_b * batch.weights_b).sum() / plan.step_size
        total += loss.detach()
        if balance:
            tally += balance.tally(losses_b, batch.timesteps_b, batch.weights_b)
            weights_b = balance.weights(batch.timesteps_b) * batch.weights_b
            loss = (losses_b * weights_b).sum() / plan.step_size
        (loss * updater.loss_scale.value if updater.loss_scale.enabled else loss).backward()
        ids += batch.ids
    num_images = sum(slot.weight > 0 for forward in passes for slot in forward)
    votes = torch.full((), float(stop), device=runtime.device)  # filled there: a copy would wait for the device
    numbers = torch.cat([torch.stack([total, votes]), tally])
    numbers = runtime.sum_gradients(updater.parameters, numbers)
    scale, can_overflow = updater.loss_scale.value, updater.loss_scale.can_overflow
    grad_norm, finite = updater.apply(torch.isfinite(numbers[0]))
    if balance:
        balance.update(numbers[2:], finite)
    if train_state.ema:
        train_state.ema.update(step)
    mean_loss = numbers[0] * (plan.step_size / max(1, num_images))
    return StepResult(
        epoch=epoch,
        loss=mean_loss,
        grad_norm=grad_norm,
        finite=finite,
        stop_votes=numbers[1],
        num_images=num_images,
        ids=tuple(ids),
        learning_rate=learning_rate,
        loss_scale=scale if updater.loss_scale.enabled else 1.0,
        can_overflow=can_overflow,
    )


def batch_losses(model: DiffusionModel, objective: Objective, batch: Batch, runtime: Runtime) -> Tensor:
    """(b,) float32 loss of each image."""
    noisy_bchw = objective.add_noise(batch.latents_bchw, batch.noise_bchw, batch.timesteps_b)
    target_bchw = objective.target(batch.latents_bchw, batch.noise_bchw, batch.timesteps_b)
    with runtime.autocast():
        prediction_bchw = model.predict(noisy_bchw, objective.timestep_t[batch.timesteps_b], batch.conditioning)
    return objective.loss(prediction_bchw, target_bchw, batch.timesteps_b, batch.latent_weights_bhw)


def to_device(batch: Batch, runtime: Runtime, channels_last: bool) -> Batch:
    """The batch on the runtime's device."""
    device = runtime.device
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def send(tensor: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
        # Only pinned memory travels without waiting for the device.
        source = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return source.to(device, non_blocking=True, memory_format=layout)

    weights = batch.latent_weights_bhw
    return Batch(
        ids=batch.ids,
        latents_bchw=send(batch.latents_bchw, layout),
        noise_bchw=send(batch.noise_bchw, layout),
        timesteps_b=send(batch.timesteps_b),
        conditioning={name: send(tensor) for name, tensor in batch.conditioning.items()},
        weights_b=send(batch.weights_b),
        latent_weights_bhw=send(weights) if weights is not None else None,
    )


@torch.no_grad()
def validation_loss(train_state: TrainState, held_out: BatchMaker, timesteps: tuple[int, ...]) -> float | None:
    """Mean loss of the held-out images at fixed timesteps and noise; None without held-out images.

    Latents are the distribution's mean and captions are never dropped, so the number depends on the weights alone.
    Each process takes its share; an image's timesteps go together.
    """
    count = len(held_out.examples)
    if not count:
        return None
    runtime = train_state.runtime
    total = torch.zeros(2, device=runtime.device)
    for index in range(runtime.rank, count, runtime.num_devices):
        batch = to_device(held_out.fixed(index, timesteps), runtime, train_state.channels_last)
        losses_b = batch_losses(train_state.model, train_state.objective, batch, runtime)
        total += torch.stack([losses_b.sum(), torch.ones_like(losses_b).sum()])
    total = runtime.sum_numbers(total)
    return float(total[0] / total[1])
