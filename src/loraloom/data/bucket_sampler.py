"""Which images an optimizer step learns from: a pure function of the settings, the seed and the step.

In: image sizes, batch size, number of devices. Out: for every step of an epoch its forward passes, each a list of
slots that all ranks share out among themselves.

    epoch  -> steps          every image once, in an order computed from (seed, epoch)
    step   -> forward passes `gradient_accumulation` of them, fewer in an epoch's last step
    pass   -> slots          batch_size x num_devices images of one size; rank r takes its own run of them

A bucket's tail is filled with repeats of weight zero, and a step's loss is divided by the slots of a whole step, so that
every image has its exact share of an epoch whatever the buckets. Because a pass spans all devices, two devices with
batch 2 learn from the same images as one with batch 4. A run keeps the passes of the number of devices that it was started
with: another number of ranks shares the same passes out, in micro-batches of at most batch_size. So steps, images and
cursor do not depend on the number of ranks that happens to be at work. For a resume only that first number is saved.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loraloom.utils.rng import permutation
from loraloom.utils.untrusted import check_range

MAX_DEVICES = 1 << 16
"""Largest number of devices that a checkpoint may name."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a forward pass: which image, and 1.0, or 0.0 for a repeat that only fills the batch."""

    index: int
    weight: float


Pass = tuple[Slot, ...]
Step = tuple[Pass, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of a run.

    Attributes:
        sizes: (width, height) of every image.
        batch_size: Images in a forward pass on one device.
        num_devices: Devices that the run was started with: a forward pass has a full batch for each of them.
        accumulation: Forward passes in a step.
        seed: Decides the order.
    """

    sizes: tuple[tuple[int, int], ...]
    batch_size: int
    num_devices: int
    accumulation: int
    seed: int

    @property
    def pass_size(self) -> int:
        """Slots of one forward pass over all devices."""
        return self.batch_size * self.num_devices

    @property
    def step_size(self) -> int:
        """Slots of a whole optimizer step: what a step's summed loss is divided by."""
        return self.pass_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every image is seen once."""
        passes = sum(-(-len(bucket) // self.pass_size) for bucket in self._buckets().values())
        return -(-passes // self.accumulation)

    def slots(self) -> tuple[int, int]:
        """Slots of an epoch, and how many of them are repeats of weight zero."""
        buckets = [len(bucket) for bucket in self._buckets().values()]
        slots = sum(-(-count // self.pass_size) * self.pass_size for count in buckets)
        return slots, slots - sum(buckets)

    def smallest_bucket(self) -> int:
        """Images of the size that fewest have."""
        return min(len(bucket) for bucket in self._buckets().values())

    def epoch(self, number: int) -> tuple[Step, ...]:
        """All steps of an epoch."""
        passes: list[Pass] = []
        for size, members in sorted(self._buckets().items()):
            order = permutation(len(members), self.seed, number, f"{size}", "bucket order")
            shuffled = [members[place] for place in order]
            for start in range(0, len(shuffled), self.pass_size):
                chunk = shuffled[start : start + self.pass_size]
                fill = [Slot(chunk[k % len(chunk)], 0.0) for k in range(self.pass_size - len(chunk))]
                passes.append((*(Slot(index, 1.0) for index in chunk), *fill))
        mixed = [passes[place] for place in permutation(len(passes), self.seed, number, "pass order")]
        return tuple(tuple(mixed[i : i + self.accumulation]) for i in range(0, len(mixed), self.accumulation))

    def micro_batches(self, forward: Pass, rank: int, num_ranks: int) -> tuple[Pass, ...]:
        """What one of `num_ranks` ranks computes of a forward pass: consecutive slots, at most batch_size at a time.

        With more ranks than slots some ranks have nothing to compute.
        """
        start, end = (place * len(forward) // num_ranks for place in (rank, rank + 1))
        return tuple(forward[k : min(k + self.batch_size, end)] for k in range(start, end, self.batch_size))

    def _buckets(self) -> dict[tuple[int, int], list[int]]:
        buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, size in enumerate(self.sizes):
            buckets[size].append(index)
        return buckets


class EpochCache:
    """The steps of the epoch that was asked for last: a step needs its epoch's order, not all epochs'.

    As a component of the training state it keeps the number of devices that the run was started with.
    """

    def __init__(self, plan: Plan) -> None:
        self._use(plan)

    def _use(self, plan: Plan) -> None:
        self.plan = plan
        self.steps_per_epoch = plan.steps_per_epoch  # walks all images: once a run, not once a step
        self._number = -1
        self._steps: Sequence[Step] = ()

    def step(self, step: int) -> tuple[int, Step]:
        """Epoch number and forward passes of an optimizer step counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._number:
            self._number, self._steps = epoch, self.plan.epoch(epoch)
        return epoch, self._steps[place]

    def state_dict(self) -> dict[str, Any]:
        """The number of devices that the run was started with."""
        return {"num_devices": self.plan.num_devices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the passes of the run's first start, whatever the number of ranks now.

        Raises:
            UserError: It is no number of devices.
        """
        check_range(state["num_devices"], "num_devices of the bucket sampler", 1, MAX_DEVICES)
        self._use(replace(self.plan, num_devices=state["num_devices"]))
